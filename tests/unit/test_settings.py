"""Settings: every fault at its dotted place, with the near miss; JSON both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceivers.errors import SpecError
from perceivers.inputs.image import ImageInput
from perceivers.inputs.number import NumberInput
from perceivers.models.spec import Spec
from perceivers.settings import parse_settings
from perceivers.training.recipe import as_recipe

GOOD = {
    "inputs": {"photo": {"kind": "image", "size": [8, 8]}},
    "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
}


def refused(changes: dict, *parts: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_settings(Spec, {**GOOD, **changes}, "recipe.yaml")
    for part in ("recipe.yaml", *parts):
        assert part in str(caught.value), str(caught.value)


def test_a_misspelt_key_at_the_top():
    refused({"latent": {"count": 8}}, "latent: unknown key. Did you mean 'latents'?", "Known here: decoder, encoder")


def test_a_misspelt_key_inside_a_kind_inside_a_lift():
    image = {"kind": "image", "size": [8, 8], "lift": {"kind": "patches", "sise": [2, 2]}}
    refused(
        {"inputs": {"photo": image}},
        "2 faults",
        "inputs.photo.lift.sise: unknown key. Did you mean 'size'? Known here: channels, kind, size.",
        "inputs.photo.lift.size: is missing.",
    )


def test_an_unknown_kind():
    refused(
        {"inputs": {"photo": {"kind": "imgae", "size": [8, 8]}}},
        "inputs.photo: unknown kind 'imgae'. Did you mean 'image'?",
        "Known: image, image_pair, ",
    )


def test_a_missing_kind():
    refused({"inputs": {"photo": {"size": [8, 8]}}}, "inputs.photo: needs a 'kind'")


def test_a_word_that_is_not_on_the_list():
    image = {"kind": "image", "size": [8, 8], "resize": "strech"}
    refused({"inputs": {"photo": image}}, "inputs.photo.resize: 'strech' is not one of", "Did you mean 'stretch'?")


def test_a_word_where_settings_are_wanted():
    refused(
        {"inputs": {"photo": {"kind": "image", "size": [8, 8], "lift": "conv"}}, "latents": 4},
        "inputs.photo.lift: wanted settings, a mapping of names to values, such as {kind: conv} (got 'conv').",
        "latents: wanted settings, a mapping of names to values (got 4).",
    )
    flow = {"kind": "flow", "upsample": "raft"}
    refused(
        {"outputs": {"flow": flow}}, "outputs.flow.upsample: wanted settings", "such as {kind: convex} (got 'raft')"
    )


def test_a_number_out_of_bounds_says_what_was_given():
    refused({"encoder": {"dropout": 1.5}}, "encoder.dropout:", "less than 1", "(got 1.5)")
    refused({"latents": {"count": "many"}}, "latents.count:", "valid integer", "(got 'many')")
    refused({"latents": {"init_std": float("nan")}}, "latents.init_std:", "finite number")


def test_an_input_called_as_a_kind_does_not_lose_its_place():
    refused({"inputs": {"image": {"kind": "image", "size": [8, 8], "chanels": 1}}}, "inputs.image.chanels: unknown key")


def test_no_mapping():
    with pytest.raises(SpecError, match="spec: expected a mapping of names to values, got list"):
        parse_settings(Spec, ["image"], "spec")


def test_a_finished_spec_is_taken_as_it_is():
    spec = parse_settings(Spec, GOOD, "spec")
    assert parse_settings(Spec, spec, "spec") is spec


def test_changes_are_validated_copies():
    settings = NumberInput(columns=("a",))
    changed = settings.with_changes(channels=8)
    assert (settings.channels, changed.channels) == (64, 8)
    with pytest.raises(SpecError, match=r"NumberInput has a fault:\n  channels: .*greater than 0 \(got 0\)"):
        settings.with_changes(channels=0)


@given(
    st.integers(1, 64),
    st.sampled_from([{"kind": "pixels"}, {"kind": "patches", "size": [1, 2]}, {"kind": "conv", "layers": 2}]),
    st.one_of(st.none(), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3)),
)
def test_json_both_ways_exactly(size, lift, mean):
    settings = parse_settings(ImageInput, {"kind": "image", "size": [size, 2], "lift": lift, "mean": mean}, "x")
    assert ImageInput.model_validate_json(settings.model_dump_json()) == settings
    assert parse_settings(ImageInput, settings.model_dump(mode="json"), "x") == settings


def test_a_new_name_beside_the_one_that_was_meant():
    photo = GOOD["inputs"]["photo"]
    refused({"inputs": {"photo": photo, "foto": {"channels": 1}}}, "inputs.foto: needs a 'kind'. Did you mean 'photo'?")
    with pytest.raises(SpecError, match=r"inputs\.far: needs a 'kind'\.$"):
        parse_settings(Spec, {**GOOD, "inputs": {"photo": photo, "far": {"channels": 1}}}, "spec")


def test_a_message_that_ends_in_a_question_has_no_full_stop():
    recipe = {"model": GOOD, "data": {"source": "digits"}, "training": {"augment": {"foto": {"kind": "image"}}}}
    with pytest.raises(SpecError, match=r"Did you mean 'photo'\?$"):
        as_recipe(recipe)
