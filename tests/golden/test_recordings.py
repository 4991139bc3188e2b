"""Whole models built from a spec and filled by the converter give the official code's recorded answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from perceivers import build
from perceivers.elements import Batch, Elements
from perceivers.errors import ModelError
from perceivers.models.convert import compare, official, read_weights, verify
from perceivers.models.convert.deepmind import entries
from perceivers.models.convert.mapping import channels_last_kernel, flat, same, transposed
from perceivers.models.convert.recorded_specs import flow_spec, image_spec, language_spec
from perceivers.models.convert.verify import UnsupportedRecordingError

DATA = Path(__file__).parent / "data"
RECORDED = {
    "dm_blocks": 8,
    "dm_functional": 14,
    "dm_upsample": 5,
    "dm_image_conv": 15,
    "dm_image_fourier": 6,
    "dm_image_fourier_projection_decoder": 3,
    "dm_language_mlm": 4,
    "dm_optical_flow": 2,
}


def altered(tmp_path: Path, name: str, arrays: dict[str, np.ndarray | str | None]) -> Path:
    """The recording with some arrays replaced, or left out where None."""
    with np.load(DATA / f"{name}.npz", allow_pickle=False) as stored:
        held = {key: stored[key] for key in stored.files}
    for key, array in arrays.items():
        if array is None:
            del held[key]
        else:
            held[key] = array
    np.savez(tmp_path / "altered.npz", **held)
    return tmp_path / "altered.npz"


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers(name):
    found = compare(DATA / f"{name}.npz")
    assert len(found) == RECORDED[name], "every recorded output is computed"
    assert {key: c for key, c in found.items() if not c.within} == {}
    assert verify(DATA / f"{name}.npz") == {key: c.absolute for key, c in found.items()}


def test_the_recorded_flow_is_no_zero():
    flow = read_weights(DATA / "dm_optical_flow.npz").arrays["output/flow"].read()
    assert np.abs(flow).mean() > 0.01, "the tolerance would hide flow that is all but zero"


def test_another_weight_is_found_out(tmp_path):
    stored = read_weights(DATA / "dm_optical_flow.npz")
    bias = "params/flow_decoder/~/basic_decoder/output/b"
    found = compare(altered(tmp_path, "dm_optical_flow", {bias: stored.arrays[bias].read() + 1}))
    assert not found["flow"].within
    assert found["flow"].absolute == pytest.approx(0.2, rel=1e-3), "divided by 100, times 20"
    assert found["patches"].within


def test_what_does_not_fit_its_config(tmp_path):
    bias, more = "params/embedding_decoder/bias", "params/more/w"
    path = altered(tmp_path, "dm_language_mlm", {bias: None, more: np.zeros(3, "f")})
    with pytest.raises(ModelError, match=f"1 array is missing, the first '{bias}'; 1 array is too many, .*'{more}'"):
        compare(path)
    path = altered(tmp_path, "dm_language_mlm", {bias: np.zeros(7, "f")})
    with pytest.raises(ModelError, match=rf"of another shape, the first '{bias}': \(7,\), .*\(262,\)"):
        compare(path)


@pytest.mark.parametrize(
    ("name", "array", "changed", "said"),
    [
        ("dm_image_conv", "config", '{"input_preprocessor": {}}', "KeyError: 'prep_type'"),
        ("dm_image_conv", "config", '{"input_preprocessor": 3, "encoder": []}', "TypeError"),
        ("ar_functional", "input/x", np.zeros((2, 7, 3, 7), np.float32), "AssertionError"),
        ("dm_blocks", "input/kv", None, "KeyError: 'input/kv'"),
        ("dm_upsample", "input/x2", np.zeros((2, 3), np.float32), "do not belong together"),
        ("hip_basic", "input/image", np.zeros((2, 3), np.float32), "do not belong together"),
        ("ar_rotary", "input/events", np.full((4, 20), 900, np.int32), "do not belong together"),
    ],
)
def test_a_recording_whose_parts_are_not_of_one_kind_is_not_verified(name, array, changed, said, tmp_path):
    with pytest.raises(UnsupportedRecordingError, match=said):
        verify(altered(tmp_path, name, {array: changed}))


def test_a_stem_of_two_convolutions(tmp_path):
    lift = {"kind": "conv", "channels": 8, "layers": 2}
    image = {"kind": "image", "size": [32, 32], "mean": [0.0] * 3, "std": [1.0] * 3, "lift": lift}
    spec = {"inputs": {"image": image}, "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}}}
    model = build(spec, seed=0)
    shaped = {
        channels_last_kernel: lambda a: np.moveaxis(a, (0, 1), (-1, -2)),
        flat: lambda a: a.reshape(1, 1, 1, -1) if a.ndim else a,
        transposed: np.transpose,
        same: lambda a: a,
    }
    state = model.state_dict()
    arrays = {entry.theirs: shaped[entry.change](state[entry.ours].numpy()) for entry in entries(model)}
    counters = [name for name in arrays if name.endswith("mean_ema/counter")]
    assert len(counters) == 2
    arrays |= {name.replace("mean_ema", "var_ema"): arrays[name] for name in counters}
    np.savez(tmp_path / "two.npz", **arrays)
    found = official(tmp_path / "two.npz", spec).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_what_is_no_recording(tmp_path):
    with pytest.raises(UnsupportedRecordingError, match="is no recording: wanted an npz with a config"):
        compare(DATA / "hf_masked_lm" / "model.safetensors")
    path = altered(tmp_path, "dm_optical_flow", {"output/more": np.zeros(3, "f")})
    with pytest.raises(UnsupportedRecordingError, match="output 'more' is recorded"):
        compare(path)


@pytest.mark.parametrize(
    ("pickle", "name", "spec"),
    [
        ("language_like_flatmapping.pickle", "dm_language_mlm", language_spec),
        ("imagenet_conv_like.pystate", "dm_image_conv", image_spec),
    ],
)
def test_a_pickle_is_the_same_model(pickle, name, spec):
    recording = read_weights(DATA / f"{name}.npz")
    model, other = official(DATA / pickle, spec(recording)), official(DATA / f"{name}.npz", spec(recording))
    assert list(model.state_dict()) == list(other.state_dict())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


@pytest.mark.parametrize("chunk", [1, 7, 8 * 12])
def test_flow_in_chunks(chunk):
    recording = read_weights(DATA / "dm_optical_flow.npz")
    model = official(DATA / "dm_optical_flow.npz", flow_spec(recording))
    images = torch.from_numpy(np.array(recording.arrays["input/images"].read()))
    pair = torch.cat([images[:, 0], images[:, 1]], dim=-1)
    batch = Batch({"pair": Elements(pair.flatten(1, 2), grid=(8, 12))}, 2)
    with torch.no_grad():
        flow = model.decode(model.encode(batch), chunk=chunk, batch=batch)["flow"]
    wanted = torch.from_numpy(np.array(recording.arrays["output/flow"].read()))
    torch.testing.assert_close(flow, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "spec"),
    [("dm_language_mlm", language_spec), ("dm_optical_flow", flow_spec), ("dm_image_conv", image_spec)],
)
def test_every_gradient_is_finite_and_none_is_zero(name, spec):
    recording = read_weights(DATA / f"{name}.npz")
    model = official(DATA / f"{name}.npz", spec(recording)).train()
    if name == "dm_language_mlm":
        ids = torch.from_numpy(np.array(recording.arrays["input/inputs"].read())).long()[..., None]
        mask = torch.from_numpy(np.array(recording.arrays["input/input_mask"].read())).bool()
        batch = Batch({"text": Elements(ids, grid=(32,), mask=mask)}, len(ids))
    else:
        images = torch.from_numpy(np.array(recording.arrays["input/images"].read()))
        if name == "dm_optical_flow":
            pair = torch.cat([images[:, 0], images[:, 1]], dim=-1)
            batch = Batch({"pair": Elements(pair.flatten(1, 2), grid=(8, 12))}, len(pair))
        else:
            batch = Batch({"image": Elements(images.flatten(1, 2), grid=tuple(images.shape[1:3]))}, len(images))
    (answer,) = model(batch).values()
    answer.square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any() or key.endswith("attention.key.bias"), key  # a shift of all scores changes nothing


def test_a_transformers_folder_is_a_recording():
    found = compare(DATA / "hf_masked_lm")
    assert found
    assert all(comparison.within for comparison in found.values())
