"""The spec: defaults, names, orders that do not exist, JSON both ways."""

import json

import pytest

from perceivers.errors import SpecError
from perceivers.models.build import build
from perceivers.models.presets import PRESETS
from perceivers.models.spec import Spec, as_spec

SMALL = {
    "inputs": {"photo": {"kind": "image", "size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}},
    "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
}


def refused(changes: dict, match: str) -> None:
    with pytest.raises(SpecError, match=match):
        as_spec({**SMALL, **changes})


def test_the_least_that_is_a_spec():
    spec = as_spec(SMALL)
    assert (spec.latents.count, spec.latents.channels) == (128, 128)
    assert spec.decoder.kind == "cross_attend"
    assert as_spec(spec) is spec


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_json_both_ways_exactly(name):
    spec = PRESETS[name].build_spec()
    text = json.dumps(spec.model_dump(mode="json"))
    assert as_spec(json.loads(text)) == spec
    assert Spec.model_validate_json(spec.model_dump_json()) == spec


def test_a_spec_cannot_be_changed_in_place():
    spec = as_spec(SMALL)
    with pytest.raises(ValueError, match="frozen"):
        spec.latents = None


@pytest.mark.parametrize("name", ["two words", "1st", "a.b", "", "a-b"])
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_names_are_identifiers(side, name):
    refused({side: {name: next(iter(SMALL[side].values()))}}, "cannot be a name: use letters, digits and underscores")


@pytest.mark.parametrize("name", ["type", "keys", "values", "training", "float", "pop", "forward"])
def test_names_that_torch_has_taken(name):
    refused({"inputs": {name: SMALL["inputs"]["photo"]}}, f"'{name}' is taken .* call it '{name}_input'")


@pytest.mark.parametrize("name", ["label", "image", "photo", "x", "größe", "class_", "input", "mean"])
def test_names_that_are_free(name):
    assert name in as_spec({**SMALL, "inputs": {name: SMALL["inputs"]["photo"]}}).inputs


@pytest.mark.parametrize("name", ["row", "file", "error"])
def test_outputs_are_not_called_what_predictions_hold_besides(name):
    answer = SMALL["outputs"]["label"]
    refused({"outputs": {name: answer}}, f"an output cannot be called '{name}': .* call it '{name}_answer'")
    assert name in as_spec({**SMALL, "inputs": {name: SMALL["inputs"]["photo"]}}).inputs


def test_an_input_and_an_output_are_needed():
    refused({"inputs": {}}, "inputs: .*at least 1 item")
    refused({"outputs": {}}, "outputs: .*at least 1 item")


def test_interleaved_cross_attends_need_blocks():
    refused(
        {"encoder": {"cross_attends": 3, "blocks": 2, "interleaved": True}},
        "3 interleaved cross-attends need as many latent blocks, but blocks is 2",
    )


def test_a_query_that_nobody_asks():
    output = {**SMALL["outputs"]["label"], "query": {"kind": "learned", "channels": 3}}
    refused(
        {"decoder": {"kind": "average"}, "outputs": {"label": output}},
        r"an average decoder asks no queries, so those of outputs\.label would do nothing",
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"encoder": {"self_attend": {"heads": 5}}},
            "encoder.self_attend.heads is 5, which does not divide latents.channels = 128; make latents.channels a ",
        ),
        ({"encoder": {"self_attend": {"heads": 4, "v_channels": 6}}}, "divide encoder.self_attend.v_channels = 6"),
        ({"encoder": {"cross": {"heads": 4, "qk_channels": 6}}}, "encoder.cross.heads is 4, .* encoder.cross.qk_ch"),
        ({"decoder": {"kind": "cross_attend", "heads": 3}}, "decoder.heads is 3, which does not divide latents"),
    ],
)
def test_heads_divide_what_they_share(changes, match):
    refused(changes, match)


def test_heads_of_a_cross_attend_divide_what_the_inputs_make():
    """Which only `build` knows: an image with the default positions has 3 + 66 channels."""
    assert as_spec({**SMALL, "encoder": {"cross": {"heads": 2}}})
    with pytest.raises(SpecError, match=r"encoder\.cross\.heads is 2, which does not divide the 69 channels"):
        build({**SMALL, "encoder": {"cross": {"heads": 2}}}, device="meta")
