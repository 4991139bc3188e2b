"""A hierarchy as a model: specs that fit and that do not, encode and decode, absence, saving, what it cannot do."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from perceivers.elements import Batch
from perceivers.errors import DataError, ModelError, SpecError
from perceivers.live import LiveEncoder
from perceivers.models.build import build
from perceivers.models.spec import Spec, as_spec
from perceivers.models.weights import load
from perceivers.nn.hierarchical import Levels
from perceivers.predictor import Predictor
from perceivers.sources import Source

SPEC: dict[str, Any] = {
    "inputs": {
        "photo": {"kind": "image", "size": [4, 6], "channels": 2, "mean": [10.0, 20.0], "std": [2.0, 4.0]},
        "wave": {"kind": "series", "rate": 1, "seconds": 7, "mean": [1.0], "std": [3.0]},
        "facts": {"kind": "number", "columns": ["a", "b"], "channels": 5, "mean": [0, 0], "std": [1, 1]},
    },
    "encoder": {
        "kind": "hierarchical",
        "embedding_channels": 8,
        "blocks": [
            {"groups": 4, "latents": 3, "channels": 8, "self_heads": 2},
            {"groups": 1, "latents": 4, "channels": 16, "self_heads": 4, "self_attends": 2},
            {"groups": 4, "latents": 3, "channels": 12, "self_heads": 4},
        ],
    },
    "outputs": {
        "label": {"kind": "category", "classes": ["x", "y", "z"]},
        "size": {"kind": "number", "mean": [4.0], "std": [2.0]},
        "photo_again": {"kind": "reconstruction", "input": "photo"},
        "wave_again": {"kind": "reconstruction", "input": "wave"},
    },
}


def spec(**changes: Any) -> dict[str, Any]:
    """`SPEC` with `a__b=value` set at a.b; None takes a key out."""
    changed = copy.deepcopy(SPEC)
    for key, value in changes.items():
        *path, last = key.split("__")
        place = changed
        for part in path:
            place = place.setdefault(part, {})
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    return changed


def model_of(**changes: Any) -> Any:
    model = build(spec(**changes), seed=0).eval()
    with torch.no_grad():
        for output in model.outputs.values():
            output.head.weight.normal_()
    return model


def sample(seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "photo": generator.normal(size=(4, 6, 2)).astype(np.float32),
        "wave": generator.normal(size=(7, 1)).astype(np.float32),
        "facts": [0.3, -1.0],
    }


@torch.no_grad()
def test_encode_and_decode_are_the_two_halves():
    model, samples = model_of(), [sample(0), sample(1)]
    levels = model.encode(samples)
    assert isinstance(levels, Levels)
    assert (levels.centre.shape, levels.final.shape) == ((2, 4, 16), (2, 4, 3, 12))
    whole = model(samples)
    assert {name: tuple(p.shape) for name, p in whole.items()} == {
        "label": (2, 3),
        "size": (2, 1),
        "photo_again": (2, 24, 2),
        "wave_again": (2, 7, 1),
    }
    for name, prediction in whole.items():
        torch.testing.assert_close(model.decode(levels, [name], chunk=1)[name], prediction)
    with pytest.raises(DataError, match="decode wants the Levels that encode gives; got a Tensor"):
        model.decode(levels.centre)


VARIANTS = [
    {},
    {"decoder": {"kind": "average"}},
    {"decoder": {"kind": "cross_attend", "query_residual": False}, "outputs__size": None},
    {"encoder__central_inputs": ["facts"], "encoder__regroup": "transpose_reshape"},
    {"encoder__central_inputs": ["wave"], "encoder__project_positions": True},
    {"encoder__blocks": [{"groups": 1, "latents": 5, "channels": 16}]},
    {"outputs": {"photo_again": SPEC["outputs"]["photo_again"]}},
    {"outputs": {"label": SPEC["outputs"]["label"]}, "decoder": {"kind": "average"}},
    {"inputs__photo__lift": {"kind": "patches", "size": [2, 3]}},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=range(len(VARIANTS)))
def test_every_parameter_gets_a_gradient_and_the_model_is_saved(changes, tmp_path):
    model, samples = model_of(**changes), [sample(0), sample(1)]
    predictions = model(samples)
    sum(p.square().sum() for p in predictions.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("attention.key.bias"):
            assert parameter.grad.any(), name
    again = load(model.save(tmp_path / "model"))
    assert again.spec == model.spec == as_spec(model.spec.model_dump(mode="json"))
    with torch.no_grad():
        for name, prediction in again(samples).items():
            assert torch.equal(prediction, predictions[name])


@pytest.mark.parametrize("changes", VARIANTS[:6], ids=range(6))
@torch.no_grad()
def test_absent_is_masked_whole_and_a_masked_element_changes_nothing(changes):
    model = model_of(**changes).double()
    for missing in SPEC["inputs"]:
        given = sample()
        del given[missing]
        absent = model([given])
        batch = model.collate([sample()])
        gone = {**batch.inputs, missing: batch.inputs[missing].keep(torch.tensor([False]))}
        for name, prediction in model(Batch(gone, 1)).items():
            assert torch.equal(prediction, absent[name]), (missing, name)
            assert not torch.allclose(prediction, model(batch)[name]), (missing, name)
    some = []
    for value in (math.nan, math.inf):
        spoiled = sample()
        spoiled["wave"][2] = value
        some.append(model([spoiled]))
    assert all(torch.equal(some[0][name], some[1][name]) for name in some[0])
    assert all(p.isfinite().all() for p in model(Batch({}, 2)).values())


def test_order_of_names_does_not_matter():
    turned = {
        **SPEC,
        "inputs": dict(reversed(SPEC["inputs"].items())),
        "outputs": dict(reversed(SPEC["outputs"].items())),
    }
    one, other = build(SPEC, seed=0).state_dict(), build(turned, seed=0).state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def test_a_reconstruction_is_answered_in_the_inputs_own_units():
    model = model_of()
    answer = Predictor(model)(sample())
    prediction = model([sample()])["photo_again"].reshape(4, 6, 2)
    wanted = prediction * torch.tensor([2.0, 4.0]) + torch.tensor([10.0, 20.0])
    torch.testing.assert_close(torch.tensor(answer["photo_again"]), wanted)
    assert np.shape(answer["wave_again"]) == (7, 1)


@torch.no_grad()
def test_training_draws_latents_and_evaluation_takes_all():
    centre = {**SPEC["encoder"]["blocks"][1], "latents": 8}
    blocks = [SPEC["encoder"]["blocks"][0], centre, SPEC["encoder"]["blocks"][2]]
    model = model_of(encoder__blocks=blocks, encoder__train_latents=4, encoder__drop_path=0.5)
    assert model.encode(sample()).centre.shape == (1, 8, 16)
    assert torch.equal(model.encode(sample()).final, model.encode(sample()).final)
    model.train()
    assert model.encode(sample()).centre.shape == (1, 4, 16)
    assert not torch.equal(model.encode(sample()).final, model.encode(sample()).final)


def test_positions_left_out_are_none():
    parsed = as_spec(SPEC)
    assert parsed.inputs["photo"].position.kind == parsed.inputs["wave"].position.kind == "none"
    assert Spec.model_validate_json(parsed.model_dump_json()) == parsed


BLOCKS = SPEC["encoder"]["blocks"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder__kind": "hierarchic"}, r"encoder: unknown kind 'hierarchic'\. Did you mean 'hierarchical'"),
        ({"encoder__block": 1}, r"encoder\.block: unknown key\. Did you mean 'blocks'"),
        ({"encoder__blocks": None}, "encoder.blocks: is missing"),
        ({"encoder__blocks": BLOCKS[:2]}, "its blocks are odd in number; these are 2"),
        ({"encoder__blocks": [BLOCKS[0], BLOCKS[0], BLOCKS[2]]}, "block 1 is the centre and has one group, not 4"),
        (
            {"encoder__blocks": [{**BLOCKS[0], "latents": 4}, *BLOCKS[1:]]},
            "need the same groups and latents; .* 4 × 4 and 4 × 3",
        ),
        (
            {"encoder__blocks": [BLOCKS[0], {**BLOCKS[1], "latents": 5}, BLOCKS[2]]},
            "1 × 5 latents, .* 4 groups of block 2",
        ),
        (
            {"encoder__blocks": [{**BLOCKS[0], "self_heads": 3}, *BLOCKS[1:]]},
            r"blocks\.0\.self_heads is 3, .* 8 channels",
        ),
        ({"encoder__blocks": [BLOCKS[0], {**BLOCKS[1], "cross_heads": 3}, BLOCKS[2]]}, r"blocks\.1\.cross_heads is 3"),
        ({"encoder__blocks": [{**BLOCKS[0], "groups": 10**9}, *BLOCKS[1:]]}, r"blocks\.0\.groups: .* 65536"),
        ({"encoder__train_latents": 3}, "1 × 3 latents, which cannot be shared out"),
        ({"encoder__train_latents": 8}, "train_latents is 8, but the centre has 4"),
        ({"encoder__central_inputs": ["phto"]}, "central_inputs names 'phto', which is no input"),
        ({"encoder__central_inputs": ["facts", "photo", "wave"]}, "the blocks have nothing to read"),
        (
            {"inputs__photo__position": {"kind": "fourier"}},
            r"inputs\.photo\.position is fourier, .* leave position out",
        ),
        ({"inputs__wave__rate": None, "outputs__wave_again": None}, r"inputs\.wave has no fixed number of elements"),
        ({"latents": {"count": 3}}, "latents of its own; leave latents out"),
        ({"outputs__photo_again__input": "foto"}, r"outputs\.photo_again\.input is 'foto', .* Did you mean 'photo'"),
        ({"outputs__photo_again__input": "facts"}, "cannot be of 'facts': its elements are no plain values"),
        ({"outputs__photo_again__query": {"channels": 3}}, r"outputs\.photo_again\.query: unknown key"),
        ({"inputs__photo__lift": {"kind": "conv"}}, "cannot be of 'photo': its elements are no plain values"),
        ({"inputs__photo__lift": {"kind": "patches", "size": [2, 2], "channels": 4}}, "no plain values"),
        ({"outputs": {"label": SPEC["outputs"]["label"]}}, r"nothing asks the blocks behind the centre \(block 1\)"),
        (
            {"decoder": {"kind": "cross_attend", "heads": 3}},
            "decoder.heads is 3, which does not divide the centre's channels",
        ),
        ({"encoder": {}}, r"outputs\.photo_again is a reconstruction, which needs encoder\.kind: hierarchical"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(SpecError, match=said):
        as_spec(spec(**changes))


def test_more_inputs_than_groups():
    blocks = [{**block, "groups": min(block["groups"], 2)} for block in BLOCKS]
    with pytest.raises(SpecError, match="3 inputs cannot share the 2 groups of block 0"):
        as_spec(spec(encoder__blocks=blocks))
    as_spec(spec(encoder__blocks=blocks, encoder__central_inputs=["facts"]))


def test_what_needs_a_perceiver_says_so():
    model = model_of()
    source = Source((4, 6, 2), lambda: [np.zeros((4, 6, 2), np.float32)])
    with pytest.raises(
        SpecError, match=r"cannot be read from a source; give them whole, or set encoder\.kind: perceiver"
    ):
        model.encode({"photo": source})
    with pytest.raises(SpecError, match=r"a live input needs encoder\.kind: perceiver, and this model"):
        LiveEncoder(model, "photo")


def test_an_image_of_another_size():
    batch = model_of().collate([sample()])
    other = build(spec(inputs__photo__size=[2, 6]), seed=0)
    with pytest.raises(DataError, match="made for 12 elements, but the input has 24"):
        other(batch)


def test_a_damaged_spec_is_refused_before_its_layers_are_built(tmp_path):
    folder = model_of().save(tmp_path / "model")
    text = (folder / "spec.json").read_text().replace('"self_attends": 2', '"self_attends": 2000000000')
    (folder / "spec.json").write_text(text)
    with pytest.raises(ModelError):
        load(folder)
