"""A whole model by whichever path its inputs are read: the same answers, the same gradients of every parameter."""

import pytest
import torch

from perceivers import Source, build
from perceivers.errors import SpecError
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


class Adapted(torch.nn.Module):
    """A linear and a narrow one beside it, as adapters put it; its weight is to be seen, and is not all."""

    def __init__(self, base):
        super().__init__()
        self.base, self.beside = base, torch.nn.Linear(base.in_features, base.out_features, dtype=base.weight.dtype)
        self.weight, self.bias = base.weight, base.bias
        self.in_features, self.out_features = base.in_features, base.out_features

    def forward(self, x):
        return self.base(x) + self.beside(x)


@pytest.mark.parametrize("part", ["key", "value", "query"])
def test_an_adapter_is_used_whatever_the_path_and_learns(part, monkeypatch):
    model = build(SPEC, seed=0).double()
    attention = model.encoder.cross_attends[0].attention
    adapted = Adapted(getattr(attention, part))
    setattr(attention, part, adapted)
    samples = [{"photo": torch.randn(64, 64, 1).numpy(), "row": [1.0, 2.0]}] * 2
    monkeypatch.setattr(planner, "FEWEST_ELEMENTS", 10**6)
    wanted = answers_and_gradients(model, samples)
    monkeypatch.undo()
    monkeypatch.setattr(planner, "COSTS", dict.fromkeys(planner.COSTS, (1, 1, 40, 0, 0, 0)))
    assert paths_of(model) == ("factorised", "absorbed")
    for (name, one), (_, other) in zip(answers_and_gradients(model, samples), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")
    assert adapted.beside.weight.grad.abs().sum() > 0


def test_a_source_is_not_read_past_an_adapter():
    model = build(SPEC, seed=0)
    attention = model.encoder.cross_attends[0].attention
    attention.key = Adapted(attention.key)
    rows = torch.randint(0, 255, (64, 64, 1), dtype=torch.uint8).numpy()
    with pytest.raises(SpecError, match="has a hook or a forward of its own, such as an adapter"), torch.no_grad():
        model.encode({"photo": Source((64, 64, 1), lambda: [rows])})


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
