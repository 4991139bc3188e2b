"""A whole model by whichever path its inputs are read: the same answers, the same gradients of every parameter."""

import pytest
import torch

from perceivers import build
from perceivers.nn.attention import module, planner

SPEC = {
    "inputs": {
        "photo": {
            "kind": "image",
            "size": [64, 64],
            "channels": 1,
            "mean": [0.0],
            "std": [1.0],
            "position": {"kind": "fourier", "bands": 20},
        },
        "row": {"kind": "number", "columns": ["a", "b"], "channels": 8, "mean": [0.0, 0.0], "std": [1.0, 1.0]},
    },
    "latents": {"count": 6, "channels": 16},
    "encoder": {"blocks": 1, "layers": 1, "cross_attends": 2, "self_attend": {"heads": 2}},
    "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
}


@pytest.mark.parametrize("hole", [False, True], ids=["whole", "with NaN and an absent photo"])
def test_tables_and_keys_give_the_same_answers_and_gradients(hole, monkeypatch):
    model = build(SPEC, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    photos = torch.randn(3, 64, 64, 1, generator=generator)
    if hole:
        photos[0, 5:9] = torch.nan
    samples = [{"photo": photo.numpy(), "row": [1.0, 2.0]} for photo in photos]
    if hole:
        samples[2]["photo"] = None
    monkeypatch.setattr(planner, "COSTS", dict.fromkeys(planner.COSTS, (1, 1, 40, 0, 0, 0)))
    found = answers_and_gradients(model, samples)
    assert paths_of(model) == ("factorised", "absorbed")
    monkeypatch.setattr(planner, "FEWEST_ELEMENTS", 10**6)
    assert paths_of(model) is None
    for (name, one), (_, other) in zip(found, answers_and_gradients(model, samples), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")


def test_less_memory_gives_the_same_answers_and_gradients(monkeypatch):
    model = build({**SPEC, "encoder": {**SPEC["encoder"], "dropout": 0.5, "blocks": 2}}, seed=0).double()
    samples = [{"photo": torch.randn(64, 64, 1).numpy(), "row": [1.0, 2.0]}]
    monkeypatch.setattr(planner, "FEWEST_ELEMENTS", 10**6)
    remade = []
    layer = model.encoder.blocks[0][0]
    layer.register_forward_pre_hook(lambda *_: remade.append(1))

    def found():
        torch.manual_seed(3)
        return answers_and_gradients(model, samples)

    wanted, once = found(), len(remade)
    model.encoder.save_memory(flat=True, recompute=True)
    calls = paths_taken(monkeypatch)
    for (name, one), (_, other) in zip(found(), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")
    assert len(remade) == 3 * once, "once more in the backward pass"
    assert len(calls) == 2
    assert not any("plain" in paths for paths in calls)


def paths_taken(monkeypatch):
    """The paths of each cross-attend that takes some."""
    calls, real = [], module.attend_lifted
    monkeypatch.setattr(module, "attend_lifted", lambda *a: calls.append(a[2]) or real(*a))
    return calls


def answers_and_gradients(model, samples):
    model.zero_grad()
    answers = model(samples)["label"]
    answers.square().sum().backward()
    gradients = [(name, p.grad) for name, p in model.named_parameters()]
    # The key's bias shifts all scores alike: exactly 0 without keys, rounding with them.
    return [("answers", answers), *((name, g) for name, g in gradients if not name.endswith("attention.key.bias"))]


def paths_of(model):
    """The paths that the planner takes for one photo beside the numbers."""
    channels, photo = model.fusion.channels, planner.PartShape(4096, 1, 64)
    return planner.choose_paths(
        [photo, planner.PartShape(2, channels)], planner.Asking(6, channels, channels, channels, 1)
    )
