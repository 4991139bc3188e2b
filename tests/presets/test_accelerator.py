"""On an accelerator: every preset's tiny twin answers and learns as on the CPU, and so do training and sampling."""

import numpy as np
import pytest
import test_presets_hierarchical as hierarchical
import torch
from tiny import samples_of, tiny_twin
from toys import recipe, write_people

import perceivers
from perceivers.models.build import build
from perceivers.models.model import Model
from perceivers.models.presets import PRESETS
from perceivers.nn.attention import module
from perceivers.nn.generation import Sampling
from perceivers.nn.lifted import AxisTables

pytestmark = pytest.mark.gpu
SEQUENCES = sorted(name for name in PRESETS if name.startswith("perceiver-ar-"))
HIERARCHIES = sorted(name for name in PRESETS if name.startswith("hip-"))
ONE_ANSWER = sorted(
    name for name in PRESETS if name not in SEQUENCES and name not in HIERARCHIES and "-multimodal" not in name
)
# float32 sums in another order; convolutions and products in full float32, see `whole_float32`.
CLOSE = {"rtol": 1e-4, "atol": 5e-5}


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch):
    """No TF32, which torch allows itself in convolutions."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def moved(model: Model) -> Model:
    """A copy of it on the accelerator."""
    again = build(model.spec, seed=0)
    again.load_state_dict(model.state_dict())
    return again.to("cuda")


def drawn(spec) -> Model:
    """With every weight away from zero."""
    model = build(spec, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model.eval()


@pytest.mark.parametrize("name", ONE_ANSWER + SEQUENCES + HIERARCHIES)
def test_a_twin_answers_and_learns_as_on_the_cpu(name):
    spec = hierarchical.tiny_twin(name) if name in HIERARCHIES else tiny_twin(PRESETS[name])
    samples = hierarchical.photographs(2) if name in HIERARCHIES else samples_of(spec, 2)
    here = drawn(spec)
    there = moved(here).eval()
    for output, answer in here(samples).items():
        found = there(samples)[output]
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), answer, **CLOSE)
        # Of one and the same point, or small differences of the answers would be those of the gradients.
        answer.square().mean().backward(retain_graph=True)
        found.square().mean().backward(retain_graph=True)
    largest = max(float(p.grad.abs().max()) for p in here.parameters() if p.grad is not None)
    for (parameter_name, mine), theirs in zip(here.named_parameters(), there.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), parameter_name
        if mine.grad is not None:
            assert theirs.grad is not None
            # Some gradients are differences of much larger numbers, and zero but for rounding.
            torch.testing.assert_close(theirs.grad.cpu(), mine.grad, rtol=1e-3, atol=1e-5 * largest)
    with torch.no_grad():
        for output, answer in here(samples).items():
            torch.testing.assert_close(there(samples)[output].cpu(), answer, **CLOSE)


@pytest.mark.parametrize("name", ["perceiver-imagenet-fourier", "perceiver-io-flow", "perceiver-io-imagenet-learned"])
def test_paths_without_keys_agree_there_with_the_plain_one(name, monkeypatch):
    model = drawn(tiny_twin(PRESETS[name])).to("cuda").double()
    samples = samples_of(model.spec, 2)
    with torch.no_grad():
        (plain,) = model(samples).values()
        model.encoder.save_memory(True, False)
        monkeypatch.setattr(module, "has_room", lambda *_: False)
        read, taken = module.attend_lifted, []
        monkeypatch.setattr(module, "attend_lifted", lambda *given: taken.append(given[2]) or read(*given))
        monkeypatch.setattr(module, "asks_by_tables", lambda queries, *_: isinstance(queries.position, AxisTables))
        (apart,) = model(samples).values()
    assert taken
    assert all(path != "plain" for paths in taken for path in paths)
    torch.testing.assert_close(apart, plain, rtol=1e-10, atol=1e-12)


def test_shortcuts_without_gradients_agree_there_with_the_plain_way(monkeypatch):
    """Keys of tokens by tables, grids asked in chunks, and readers drawn into the decoder's MLP."""
    sound = {"kind": "fourier", "bands": 3, "resolution": [64]}
    spec = {
        "inputs": {
            "text": {
                "kind": "text",
                "length": 200,
                "channels": 96,
                "position": {"kind": "learned", "join": "add", "channels": 96},
            },
        },
        "latents": {"count": 6, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}, "cross": {"heads": 2}},
        "decoder": {"kind": "cross_attend", "output_channels": 12},
        "outputs": {"sound": {"kind": "grid", "size": [64], "query": {**sound, "end": False}}},
    }
    model = drawn(spec).to("cuda").double()
    looked, read = [], module.looked_up
    monkeypatch.setattr(module, "looked_up", lambda *given: looked.append(given[0]) or read(*given))
    samples = [{"text": "a text of some bytes" * count} for count in range(1, 9)]
    plain = model(samples)["sound"].detach()
    assert not looked
    with torch.no_grad():
        latents = model.encode(samples)
        for chunk in (None, 7):
            found = model.decode(latents, chunk=chunk)["sound"]
            torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-12)
    assert looked


@pytest.mark.parametrize("cache", [True, False])
def test_greedy_tokens_are_those_of_the_cpu(cache):
    spec = {
        "inputs": {
            "tokens": {
                "kind": "tokens",
                "vocabulary": 259,
                "channels": 32,
                "length": 64,
                "position": {"kind": "rotary"},
            }
        },
        "latents": {"count": 16, "channels": 32},
        "encoder": {"kind": "autoregressive", "layers": 2, "self_attend": {"heads": 4}, "cross": {"heads": 4}},
        "outputs": {"next": {"kind": "next_token", "vocabulary": 259}},
    }
    here = drawn(spec)
    prompts = [np.arange(9, dtype=np.uint8), np.arange(9, 18, dtype=np.uint8)]
    greedy = Sampling(temperature=0.0)
    mine, theirs = (model.generate(prompts, 20, greedy, cache=cache) for model in (here, moved(here).eval()))
    for one, other in zip(mine, theirs, strict=True):
        assert list(one) == list(other)


def test_a_run_trains_and_predicts(tmp_path):
    write_people(tmp_path)
    given = recipe(training__steps=8, training__accelerator="gpu")
    whole = perceivers.train(given, out=tmp_path / "whole", quiet=True, base=tmp_path)
    assert perceivers.load(whole.model, "cuda").device.type == "cuda"
    there = perceivers.predict(perceivers.Predictor(whole.model, device="cuda"), tmp_path / "people.csv")
    here = perceivers.predict(whole.model, tmp_path / "people.csv")
    assert len(there) == len(here)
    for one, other in zip(there, here, strict=True):
        assert one["label_probabilities"] == pytest.approx(other["label_probabilities"], abs=1e-4)


def test_half_precision_stays_near():
    spec = tiny_twin(PRESETS["perceiver-io-imagenet-fourier"])
    here, samples = drawn(spec), samples_of(spec, 2)
    there = moved(here).eval()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        (found,) = there(samples).values()
    (wanted,) = here(samples).values()
    # Eight bits of each product.
    torch.testing.assert_close(found.float().cpu(), wanted, rtol=5e-2, atol=5e-2)
