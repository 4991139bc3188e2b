"""Every preset: its exact parameter count, and a tiny twin that runs, learns, is saved and loaded."""

import time

import pytest
import torch
from tiny import samples_of, tiny_twin
from torch import nn

from perceivers.errors import SpecError
from perceivers.models.build import build
from perceivers.models.presets import PRESETS, preset
from perceivers.models.weights import load

# The counts of the published models; written here a second time so that neither copy changes alone.
COUNTS = {
    "perceiver-imagenet-fourier": 44_912_254,
    "perceiver-imagenet-fourier-1x": 42_135_859,
    "perceiver-io-imagenet-fourier": 48_440_627,
    "perceiver-io-imagenet-learned": 62_255_848,
    "perceiver-io-imagenet-conv": 48_646_522,
    "perceiver-io-language": 201_108_230,
    "perceiver-io-flow": 41_057_134,
    "perceiver-io-multimodal": 19_858_855,
    "perceiver-imagenet-fourier-2x": 44_912_254,
    "perceiver-imagenet-fourier-4x": 44_912_254,
    "perceiver-imagenet-fourier-unshared": 326_241_856,
    "perceiver-imagenet-crosses-4": 12_654_868,
    "perceiver-imagenet-crosses-8": 23_760_448,
    "perceiver-imagenet-learned": 48_189_577,
    "perceiver-imagenet-learned-wide": 55_951_080,
    "perceiver-imagenet-conv": 42_341_754,
    "perceiver-io-imagenet-fourier-b": 212_170_035,
    "perceiver-io-imagenet-conv-b": 212_375_930,
    "perceiver-io-language-plus": 425_607_430,
    "perceiver-io-language-128": 430_132_230,
    "perceiver-io-language-512": 105_849_862,
    "perceiver-io-language-sentencepiece": 223_155_456,
    "perceiver-io-flow-1x1": 41_054_062,
    "perceiver-io-flow-separate": 41_720_272,
    "perceiver-io-flow-small": 27_908_974,
    "perceiver-io-flow-conv": 42_302_974,
    "perceiver-io-flow-conv-small": 29_154_814,
    "perceiver-io-multimodal-392": 19_658_151,
    "perceiver-io-multimodal-196": 19_557_799,
    "perceiver-audioset-raw": 109_048_771,
    "perceiver-audioset-mel": 109_048_769,
    "perceiver-io-audioset-raw": 24_922_462,
    "perceiver-io-audioset-mel": 86_568_284,
    "perceiver-io-starcraft": 24_146_304,
    "perceiver-modelnet40": 44_772_202,
    "perceiver-ar-copy-32": 26_810_627,
    "perceiver-ar-copy-131072": 223_976_707,
    "perceiver-ar-imagenet64": 770_094_339,
    "hip-imagenet-16": 100_787_939,
    "hip-imagenet-256": 96_367_155,
    "hip-imagenet-16x3": 234_803_299,
    "hip-imagenet-mini": 20_272_611,
    "hip-io-imagenet-50m": 56_169_475,
    "hip-io-imagenet-150m": 176_101_635,
    "hip-io-imagenet-mini": 6_904_451,
}

every_preset = pytest.mark.parametrize("name", sorted(PRESETS))
# Those of test_presets_hierarchical.py and unit/test_multimodal.py have twins of their own.
TWINNED = [name for name in sorted(PRESETS) if not name.startswith("hip-") and "-multimodal" not in name]
every_perceiver = pytest.mark.parametrize("name", TWINNED)


def test_all_presets_are_counted():
    assert {name: p.parameters for name, p in PRESETS.items()} == COUNTS
    assert all(name == p.name for name, p in PRESETS.items())


@every_preset
def test_exact_count_on_the_meta_device_in_no_time(name):
    begun = time.process_time()
    model = build(PRESETS[name].build_spec(), device="meta")
    assert time.process_time() - begun < 2, "shapes and counts cost nothing"
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}


@every_perceiver
def test_every_parameter_of_a_tiny_twin_gets_a_gradient(name):
    model = build(tiny_twin(PRESETS[name]), seed=0)
    for parameter in model.parameters():
        if parameter.ndim == 2 and not parameter.any():
            # Some read-outs start at zero, and so does every gradient behind them.
            nn.init.normal_(parameter)
    (prediction,) = model(samples_of(model.spec, 3)).values()
    assert prediction.shape[0] == 3
    prediction.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert "tables" in parameter_name, "only positions may be fixed"
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # The softmax does not see what is the same for all keys: these biases' gradients are zero but for rounding.
        if not parameter_name.endswith("attention.key.bias"):
            assert parameter.grad.any(), parameter_name


@every_perceiver
def test_a_tiny_twin_is_saved_and_loaded(name, tmp_path):
    model = build(tiny_twin(PRESETS[name]), seed=0)
    samples = samples_of(model.spec, 2)
    model(samples)
    model.eval()
    again = load(model.save(tmp_path / name))
    assert again.spec == model.spec
    (found,), (wanted,) = again(samples).values(), model(samples).values()
    assert torch.equal(found, wanted)


def test_the_twins_keep_what_makes_the_presets_differ():
    shapes = {}
    perceivers = {name: PRESETS[name] for name in TWINNED}
    for name, p in perceivers.items():
        twin = build(tiny_twin(p), device="meta")
        shapes[name] = (
            tuple(getattr(twin.encoder, "order", ())),
            [(n, tuple(t.shape)) for n, t in twin.named_parameters()],
        )
    assert len({repr(s) for s in shapes.values()}) == len(perceivers)
    assert [kind for kind, _ in shapes["perceiver-imagenet-fourier"][0]] == ["cross", "block"] * 8


def test_unknown_preset():
    with pytest.raises(
        SpecError, match=r"unknown preset 'perceiver-io-imagnet-conv'\. Did you mean .*-io-imagenet-conv'\?"
    ):
        preset("perceiver-io-imagnet-conv")
    assert preset("perceiver-io-imagenet-conv").parameters == 48_646_522
