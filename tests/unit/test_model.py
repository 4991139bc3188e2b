"""The model: encode, decode, collate, and their composition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.elements import Batch, Elements
from perceivers.errors import DataError, SpecError
from perceivers.models.build import build
from perceivers.models.model import Fusion

SPEC = {
    "inputs": {
        "photo": {"kind": "image", "size": [3, 2], "channels": 1, "mean": [100], "std": [50]},
        "row": {"kind": "number", "columns": ["a", "b"], "mean": [0, 0], "std": [1, 1], "channels": 6},
        "note": {"kind": "text", "length": 4},
    },
    "latents": {"count": 5, "channels": 8},
    "encoder": {"layers": 1, "self_attend": {"heads": 2}},
    "outputs": {
        "label": {"kind": "category", "classes": ["x", "y", "z"]},
        "age": {"kind": "number", "mean": [0], "std": [1], "query": {"kind": "learned", "channels": 4}},
        "end": {"kind": "number", "columns": ["p", "q"], "mean": [0, 0], "std": [1, 1]},
    },
}
PHOTO = np.arange(6, dtype=np.uint8).reshape(3, 2)
SAMPLE = {"photo": PHOTO, "row": {"a": 1, "b": 2}, "note": "ab"}
CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def model():
    return build(SPEC, seed=0).double().eval()


def test_forward_is_encode_then_decode(model):
    batch = model.collate([SAMPLE, {"row": [1, None]}])
    latents = model.encode(batch)
    assert latents.shape == (2, 5, 8)
    predictions, apart = model(batch), model.decode(latents)
    assert list(predictions) == ["age", "end", "label"]
    assert {name: tuple(p.shape) for name, p in predictions.items()} == {"age": (2, 1), "end": (2, 2), "label": (2, 3)}
    assert all(torch.equal(predictions[name], apart[name]) for name in predictions)


def test_raw_samples_may_be_given_alone_or_in_a_list(model):
    whole = model(model.collate([SAMPLE]))
    for given_ in (SAMPLE, [SAMPLE], (SAMPLE,)):
        assert all(torch.equal(model(given_)[name], whole[name]) for name in whole)


def test_elements_are_joined_in_the_order_of_their_names_each_with_its_embedding(model):
    batch = model.collate([SAMPLE])
    seen = {}
    handle = model.encoder.register_forward_pre_hook(lambda _, arguments: seen.update(elements=arguments[0]))
    model.encode(batch)
    handle.remove()
    starts = {"note": 0, "photo": 4, "row": 10}
    for name, start in starts.items():
        content = model.inputs[name](batch.inputs[name]).joined()
        here = seen["elements"].joined[:, start : start + content.shape[1]]
        torch.testing.assert_close(here[..., : content.shape[-1]], content)
        padding = model.fusion.embeddings[name].expand(1, content.shape[1], -1)
        torch.testing.assert_close(here[..., content.shape[-1] :], padding)


def test_queries_are_padded_to_one_width(model):
    seen = {}
    handle = model.decoder.register_forward_pre_hook(lambda _, arguments: seen.update(queries=arguments[0]))
    model(SAMPLE)
    handle.remove()
    assert seen["queries"].shape == (1, 3, 10)
    age = torch.cat([model.outputs["age"].query.table, model.query_fusion.embeddings["age"]], dim=-1)
    torch.testing.assert_close(seen["queries"][0, :1], age)


@given(st.sets(st.sampled_from(["label", "age", "end"])), st.one_of(st.none(), st.integers(1, 4)))
def test_any_outputs_in_any_chunks_give_the_same_answers(names, chunk):
    model = build(SPEC, seed=0).double().eval()
    latents = model.encode([SAMPLE, SAMPLE])
    whole, asked = model.decode(latents), model.decode(latents, names, chunk)
    assert list(asked) == sorted(names)
    for name in names:
        torch.testing.assert_close(asked[name], whole[name], **CLOSE)


def test_an_average_decoder_answers_from_the_mean():
    spec = {**SPEC, "decoder": {"kind": "average"}, "outputs": {"label": SPEC["outputs"]["label"]}}
    model = build(spec, seed=0).double()
    with torch.no_grad():
        model.outputs["label"].head.weight.normal_()
    latents = model.encode(SAMPLE)
    wanted = latents.mean(1) @ model.outputs["label"].head.weight.T
    torch.testing.assert_close(model.decode(latents)["label"], wanted)


def test_collate_leaves_out_what_nobody_brings(model):
    batch = model.collate([{"row": [1, 2], "note": None}, {"photo": PHOTO}])
    assert set(batch.inputs) == {"photo", "row"}
    assert batch.size == 2
    assert batch.inputs["photo"].present.any(1).tolist() == [False, True]
    assert model.collate([{}]).inputs == {}


def test_no_samples_give_no_answers(model):
    assert model([])["label"].shape == (0, 3)


def test_a_batch_may_leave_out_the_mask(model):
    values = torch.arange(6, dtype=torch.uint8).reshape(1, 6, 1)
    by_hand = Batch({"photo": Elements(values, grid=(3, 2))}, 1)
    torch.testing.assert_close(model(by_hand)["label"], model({"photo": PHOTO})["label"], **CLOSE)


def test_another_size_of_image_is_read_by_the_same_weights(model):
    values = torch.rand(1, 20, 1)
    assert model(Batch({"photo": Elements(values, grid=(4, 5))}, 1))["label"].isfinite().all()


def test_unknown_names(model):
    with pytest.raises(DataError, match=r"unknown input 'foto'\. Did you mean 'photo'\? Known: note, photo, row"):
        model({"foto": PHOTO})
    with pytest.raises(DataError, match=r"unknown input 'rows'\. Did you mean 'row'\?"):
        model(Batch({"rows": Elements(torch.zeros(1, 2, 1), grid=(2,))}, 1))
    with pytest.raises(SpecError, match=r"unknown output 'labels'\. Did you mean 'label'\?"):
        model.decode(model.encode(SAMPLE), ["labels"])


def test_device_is_that_of_the_weights():
    assert build(SPEC, device="meta").device.type == "meta"


def test_fusion_pads_with_a_trainable_embedding():
    fusion = Fusion({"wide": 5, "thin": 2}, padding=1)
    assert fusion.channels == 6
    x = torch.randn(2, 3, 2)
    padded = fusion.pad("thin", x)
    assert torch.equal(padded[..., :2], x)
    padded.sum().backward()
    assert fusion.embeddings["thin"].grad.tolist() == [[6.0] * 4]


@pytest.mark.parametrize("shape", [(2, 5, 9), (2, 4, 8), (5, 8), (1, 2, 5, 8)])
def test_latents_of_another_shape_are_refused(model, shape):
    with pytest.raises(DataError, match=r"decode wants latents \(B, 5, 8\), as encode gives them; got"):
        model.decode(torch.zeros(shape))


def test_a_column_is_told_from_an_input(model):
    with pytest.raises(DataError, match=r"'a' is no input but a column of 'row': give \{'row': \{'a': …\}\}"):
        model([{"a": 1}])
