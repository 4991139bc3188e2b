import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from perceivers.elements import Batch, Elements
from perceivers.errors import SpecError
from perceivers.inputs import KINDS
from perceivers.models.build import build
from perceivers.models.plan import ASSUMED_STEPS, plan
from perceivers.models.presets import PRESETS
from perceivers.models.spec import as_spec
from perceivers.nn.attention import planner
from perceivers.nn.attention.planner import choose_paths

LABEL = {"label": {"kind": "category", "classes": ["a", "b", "c"]}}
SMALL = {"latents": {"count": 16, "channels": 32}, "encoder": {"layers": 2, "self_attend": {"heads": 4}}}
STATISTICS = {"mean": [0.0, 0.0], "std": [1.0, 1.0]}
PHOTO = {"kind": "image", "size": [6, 4], "channels": 2, **STATISTICS}
WAVE = {"kind": "series", "channels": 2, "rate": 10, "seconds": 3, **STATISTICS}
CLIP = {"kind": "video", "size": [4, 6, 8], "channels": 2, **STATISTICS}
SOUND = {"kind": "audio", "samples": 60, "rate": 100, "channels": 2, **STATISTICS}
INPUTS = {
    "pixels": PHOTO,
    "patches": {**PHOTO, "lift": {"kind": "patches", "size": [3, 2], "channels": 8}},
    "strided": {**PHOTO, "size": [6, 5], "lift": {"kind": "conv1x1", "channels": 8, "stride": 2}},
    "stem": {**PHOTO, "size": [21, 17], "lift": {"kind": "conv", "channels": 8, "layers": 2}},
    "learned": {**PHOTO, "position": {"kind": "learned", "channels": 6, "project": 10}},
    "every_second": {**PHOTO, "lift": {"kind": "pixels", "stride": 2}},
    "refined": {**PHOTO, "position": {"kind": "fourier", "bands": 3, "project": 9, "extra": 2}},
    "pair": {"kind": "image_pair", "size": [6, 5], "position": {"kind": "fourier", "bands": 3}},
    "one_hot": {"kind": "category", "columns": ["u"], "channels": "classes", "classes": {"u": ["a", "b", "c"]}},
    "samples": WAVE,
    "flat_stem": {**WAVE, "lift": {"kind": "conv", "channels": 8, "pool": False}},
    "irregular": {**WAVE, "rate": None},
    "video": {**CLIP, "lift": {"kind": "patches", "size": [2, 3, 2], "channels": 8}},
    "thinned": {**CLIP, "lift": {"kind": "pixels", "stride": [2, 1, 3]}},
    "sound": {**SOUND, "lift": {"kind": "patches", "size": [4], "channels": 8}},
    "sound_stem": {**SOUND, "lift": {"kind": "conv", "channels": 8, "layers": 2}},
    "numbers": {"kind": "number", "columns": ["x", "y"], **STATISTICS},
    "categories": {"kind": "category", "columns": ["u", "v"], "classes": {"u": ["a", "b"], "v": ["c", "d"]}},
    "text": {"kind": "text", "length": 20},
    "points": {"kind": "points", "count": 30, "position": {"kind": "fourier", "bands": 3, "project": 8}},
}


def meta_elements(kind):
    if kind.kind == "series" and kind.rate is None:
        shape = (1, ASSUMED_STEPS, kind.channels)
        return Elements(torch.empty(shape, device="meta"), coords=torch.empty(1, ASSUMED_STEPS, 1, device="meta"))
    if kind.kind == "points":
        coords = torch.empty(1, kind.count, kind.axes, device="meta")
        return Elements(coords[..., : kind.channels], coords=coords)
    grid = kind.raw_grid() or (kind.elements(),)
    dtype = torch.int64 if kind.kind in ("category", "text") else torch.float32
    channels = kind.channels * (2 if kind.kind == "image_pair" else 1) if kind.raw_grid() else 1
    return Elements(torch.empty(1, math.prod(grid), channels, dtype=dtype, device="meta"), grid=grid)


def counted_flops(spec):
    """Torch's own count of a forward pass of one sample, attention in its plain form."""
    model = build(spec, device="meta").eval()
    batch = Batch({name: meta_elements(kind) for name, kind in model.spec.inputs.items()}, 1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(batch)
    return counter.get_total_flops()


# Both papers count multiplications and additions apart; their figures are rounded.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("perceiver-imagenet-fourier-1x", 404.3),
        ("perceiver-imagenet-fourier", 707.2),
        ("perceiver-io-imagenet-fourier", 407),
        ("perceiver-io-imagenet-conv", 369),
    ],
)
def test_the_papers_flops(name, billions):
    assert plan(PRESETS[name].spec).flops == pytest.approx(billions * 1e9, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_parts_sum_to_the_preset_parameters(preset):
    assert plan(preset.spec).parameters == preset.parameters


def test_every_input_kind_is_tried():
    assert {settings["kind"] for settings in INPUTS.values()} == {n for n, kind in KINDS.items() if not kind.continued}


@pytest.mark.parametrize("name", INPUTS)
def test_flops_of_each_input_are_what_torch_counts(name):
    spec = {"inputs": {name: INPUTS[name]}, "outputs": LABEL, **SMALL}
    assert plan(spec).flops == counted_flops(spec)
    assert plan(spec).parameters == sum(p.numel() for p in build(spec, device="meta").parameters())


def test_flops_of_a_released_model_are_what_torch_counts():
    spec = PRESETS["perceiver-io-imagenet-conv"].spec
    assert plan(spec).flops == counted_flops(spec)


attention = st.fixed_dictionaries(
    {"heads": st.sampled_from([1, 2]), "qk_channels": st.sampled_from([None, 8]), "widening": st.sampled_from([1, 3])},
    optional={"v_channels": st.sampled_from([4, 12])},
)


@given(
    names=st.lists(st.sampled_from(["numbers", "categories", "text", "flat_stem"]), min_size=1, unique=True),
    outputs=st.integers(1, 3),
    cross=attention,
    thinking=attention,
    decoding=st.none() | attention,
    blocks=st.integers(1, 4),
    crosses=st.integers(1, 4),
    interleaved=st.booleans(),
    sharing=st.sampled_from(["none", "all", "after_first"]),
)
@settings(max_examples=12)
def test_flops_and_parameters_of_any_model(
    names, outputs, cross, thinking, decoding, blocks, crosses, interleaved, sharing
):
    cross = {"qk_channels": 8, **{k: v for k, v in cross.items() if v is not None}}  # one that divides into the heads
    decoder = {"kind": "average"} if decoding is None else {"kind": "cross_attend", **decoding}
    if decoding is None:
        outputs = 1
    spec = {
        "inputs": {name: INPUTS[name] for name in names},
        "latents": {"count": 5, "channels": 16},
        "encoder": {
            "blocks": blocks,
            "layers": 2,
            "cross_attends": min(crosses, blocks),
            "interleaved": interleaved,
            "cross_sharing": sharing,
            "block_sharing": sharing,
            "cross": cross,
            "self_attend": thinking,
        },
        "decoder": decoder,
        "outputs": {f"answer{i}": LABEL["label"] for i in range(outputs)},
    }
    made = plan(spec)
    assert made.flops == counted_flops(spec)
    assert made.parameters == sum(p.numel() for p in build(spec, device="meta").parameters())


def test_elements_and_shapes():
    made = plan({"inputs": {n: INPUTS[n] for n in ("stem", "numbers", "text")}, "outputs": LABEL, **SMALL})
    assert dict(made.elements) == {"stem": 4, "numbers": 2, "text": 20}
    assert made.latents == (16, 32)
    widest, embedding = 8 + 2 * 2 * 16 + 2, 4  # the stem's channels and Fourier features
    assert made.channels == widest + embedding


def test_what_training_would_learn_is_assumed():
    made = plan(
        {
            "inputs": {
                "photo": {"kind": "image", "size": [4, 4]},
                "numbers": {"kind": "number", "columns": ["x", "y"]},
                "wave": {"kind": "series", "seconds": 3},
                "categories": {"kind": "category", "columns": ["u", "v"]},
            },
            "outputs": {"label": {"kind": "category"}, "size": {"kind": "number", "columns": ["p", "q", "r"]}},
            **SMALL,
        }
    )
    assert len(made.assumed) == 3
    for words in ("categories", "2 in each column (u, v)", "label", "wave", "1,000 elements"):
        assert any(words in line for line in made.assumed)
    heads = {part.name: part.parameters for part in made.parts}
    query, head = 32, 34 + 1  # with several outputs two channels say which one a query is for
    assert heads["output label"] == query + 2 * head
    assert heads["output size"] == query + 3 * head


def test_nothing_is_assumed_where_all_is_known():
    assert plan({"inputs": {"text": INPUTS["text"]}, "outputs": LABEL, **SMALL}).assumed == ()


def test_memory_adds_up():
    spec = {"inputs": {"text": INPUTS["text"]}, "outputs": LABEL, **SMALL}
    one, many = plan(spec, 1).memory, plan(spec, 64, averages=True).memory
    size = 4 * plan(spec).parameters
    assert (one.parameters, one.gradients, one.moments, one.averages) == (size, size, 2 * size, 0)
    assert many.averages == size
    assert many.training == 5 * size + many.training_activations
    assert many.inference == size + many.inference_activations
    assert many.training_activations == 64 * one.training_activations


def test_a_fault_of_the_spec_is_an_error():
    with pytest.raises(SpecError, match=r"heads is 3, which does not divide"):
        plan({"inputs": {"text": INPUTS["text"]}, "outputs": LABEL, **SMALL, "encoder": {"self_attend": {"heads": 3}}})


MEASURE = """
import json, sys
import torch
from perceivers.elements import Batch, Elements
from perceivers.models.build import build

torch.set_num_threads(1)
model, size = build(json.loads(sys.argv[1])), int(sys.argv[2])


def step(size, training):
    batch = Batch({"photo": Elements(torch.randn(size, 1024, 2), grid=(32, 32))}, size)
    with torch.set_grad_enabled(training):
        answers = model(batch)["label"]
        if training:
            answers.square().mean().backward()


def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def peak(training):
    step(1, training)  # gradients and libraries are there from now on
    before = memory("VmRSS")
    step(size, training)
    return memory("VmHWM") - before


print(peak(False), peak(True))  # the peak of the process only grows, and training needs more
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_activations_are_true_within_a_factor_of_two():
    photo = {"kind": "image", "size": [32, 32], "channels": 2, **STATISTICS}
    spec = {"inputs": {"photo": photo}, "outputs": LABEL, "latents": {"count": 64, "channels": 64}}
    memory = plan(spec, batch := 128).memory
    command = [sys.executable, "-c", MEASURE, json.dumps(spec), str(batch)]
    inference, training = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert memory.inference_activations / 2 < inference < memory.inference_activations * 2
    assert memory.training_activations / 2 < training < memory.training_activations * 2


def test_nothing_is_allocated():
    # 4 TB of latents alone; as_spec accepts it, and so must a plan.
    spec = as_spec(
        {"inputs": {"text": INPUTS["text"]}, "outputs": LABEL, "latents": {"count": 10**6, "channels": 10**6}}
    )
    assert plan(spec).memory.parameters > 4 * 10**12


class TestLayers:
    def test_one_a_step_with_its_path_and_why(self):
        made = plan(PRESETS["perceiver-imagenet-fourier"].spec)
        crosses = [layer for layer in made.layers if layer.name.startswith("cross-attend")]
        assert len(crosses) == 8
        assert len(made.layers) == 16, "its decoder is a mean"
        assert {layer.paths["image"] for layer in crosses} == {"factorised"}
        assert crosses[0].why.startswith("image: factorised ")
        assert all(layer.seconds > 0 and layer.bytes > 0 for layer in made.layers)

    def test_inputs_that_are_joined_are_read_at_once(self):
        made = plan({**SMALL, "inputs": {"photo": PHOTO, "wave": WAVE}, "outputs": LABEL})
        (cross, _, decoder) = made.layers
        assert cross.paths == {"photo": "plain", "wave": "plain"}
        assert cross.chunks == {"photo": 24, "wave": 30}
        assert decoder.name == "decoder"


class TestPaths:
    # Costs may decide otherwise in training; the second and third do now.
    @pytest.mark.parametrize(("side", "bands", "latents"), [(24, 8, 64), (64, 16, 8), (32, 64, 16), (96, 32, 64)])
    def test_those_of_a_step_are_those_planned(self, monkeypatch, side, bands, latents):
        """A budget is kept by what training does, not by what inference would."""
        photo = {"kind": "image", "size": [side, side], "channels": 1, "mean": [0.0], "std": [1.0]}
        spec = {
            "inputs": {"photo": {**photo, "position": {"kind": "fourier", "bands": bands}}},
            "latents": {"count": latents, "channels": 16},
            "encoder": {"layers": 1, "self_attend": {"heads": 2}}
            | {"cross": {"heads": 1, "qk_channels": 64, "v_channels": 64}},
            "outputs": LABEL,
        }
        taken = []

        def chosen(parts, *rest):
            paths = choose_paths(parts, *rest)
            # Latents are read too.
            taken.extend([("plain",) if paths is None else paths] * (parts[0].elements == side**2))
            return paths

        monkeypatch.setattr("perceivers.nn.attention.module.choose_paths", chosen)
        made, model, batch = plan(spec), build(spec, seed=0), [{"photo": np.zeros((side, side, 1), np.uint8)}]
        with torch.no_grad():
            model(batch)
        model(batch)
        assert taken == [(made.paths["photo"],), (made.training_paths["photo"],)]

    def test_memory_is_that_of_the_paths_of_training(self, monkeypatch):
        """Joined elements, keys and values, where training makes them and inference does not."""
        photo = {"kind": "image", "size": [64, 64], "channels": 1, "mean": [0.0], "std": [1.0]}
        spec = {"inputs": {"photo": photo}, "outputs": LABEL, "latents": {"count": 64, "channels": 64}}
        costs = planner.COSTS
        free = {key: (0.0,) * 6 if key == ("factorised", False) else (1.0,) * 6 for key in costs}
        found = {}
        for path in ("plain", "factorised"):
            monkeypatch.setattr(planner, "COSTS", {**free, (path, True): (0.0,) * 6})
            made = plan(spec)
            assert (made.paths, made.training_paths) == ({"photo": "factorised"}, {"photo": path})
            found[path] = made.memory
        assert found["plain"].inference == found["factorised"].inference
        # Joined, key and value at least, in float32.
        more = found["plain"].training_activations - found["factorised"].training_activations
        assert more > 3 * 4 * 4096 * made.channels


class TestBudget:
    SPEC = PRESETS["perceiver-io-imagenet-fourier"].spec

    def test_without_one_nothing_is_changed(self):
        made = plan(self.SPEC)
        assert (made.flat, made.recompute, made.fits) == (False, False, True)
        assert plan(self.SPEC, budget=1e12).memory == made.memory

    def test_latent_blocks_are_computed_again_when_that_is_needed(self):
        free = plan(self.SPEC)
        made = plan(self.SPEC, budget=0.9 * free.memory.training)
        assert made.recompute
        assert made.fits
        assert made.memory.training < 0.7 * free.memory.training
        assert made.memory.inference == free.memory.inference

    def test_keys_and_values_go_first(self):
        # Learned positions that are added: nothing to factorise, many heads, so keys and values are made.
        image = {"kind": "image", "size": [64, 64], "channels": 64, "mean": [0.0] * 64, "std": [1.0] * 64}
        spec = {
            "inputs": {"image": {**image, "position": {"kind": "learned", "channels": 64, "join": "add"}}},
            "latents": {"count": 64, "channels": 64},
            "encoder": {"layers": 1, "cross": {"heads": 8, "qk_channels": 64}, "self_attend": {"heads": 8}},
            "outputs": LABEL,
        }
        free = plan(spec, batch=8)
        assert free.paths == {"image": "plain"}
        made = plan(spec, batch=8, budget=0.95 * free.memory.training)
        assert (made.flat, made.recompute) == (True, False)
        assert made.paths["image"] != "plain"

    def test_what_fits_nowhere_says_which_batch_would(self):
        made = plan(self.SPEC, batch=64, budget=2e9)
        assert not made.fits
        assert made.recompute
        assert 1 <= made.largest_batch < 64
        assert plan(self.SPEC, batch=made.largest_batch, budget=2e9).fits
        assert plan(self.SPEC, budget=1e6).largest_batch == 0
