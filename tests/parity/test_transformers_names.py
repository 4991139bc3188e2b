"""The rules name every array of transformers' seven classes, and give each its shape in our models."""

import pytest
from their_models import CONFIGS, empty_model

from perceivers.models.build import build
from perceivers.models.convert.families import tensors_family
from perceivers.models.convert.transformers import called, theirs_shape
from perceivers.models.convert.transformers_config import Config, Picture
from perceivers.models.convert.transformers_names import FAMILIES, places
from perceivers.models.convert.transformers_spec import SPECS, spec_data
from perceivers.models.spec import as_spec

pytestmark = pytest.mark.parity
NAMES = ("audio", "image", "label", "text", "frames", "guess", "flow", "audio_out", "image_out", "label_out")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_array_has_a_place_of_its_own(name):
    theirs = empty_model(name, "meta").state_dict()
    rules = places(FAMILIES[name], CONFIGS[name]["num_self_attends_per_block"], dict(zip(NAMES, NAMES, strict=True)))
    assert set(rules) == set(theirs)
    assert len({place.ours for place in rules.values()}) == len(rules)
    assert tensors_family(theirs) == FAMILIES[name].words


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("shape", ["kv", "q"])
def test_shapes_in_our_models_are_theirs(name, shape):
    config = {**CONFIGS[name], "cross_attention_shape_for_attention": shape}
    theirs = empty_model(name, "meta", **config)
    spec = as_spec(spec_data(name, Config.model_validate(theirs.config.to_dict()), Picture(), deviations=True))
    state = build(spec, "meta").state_dict()
    rules = places(FAMILIES[name], spec.encoder.layers, called(spec, name))
    found = {their: theirs_shape(state[place.ours], place) for their, place in rules.items()}
    assert found == {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    # What batch norms sum up besides has no counterpart.
    left = set(state) - {place.ours for place in rules.values()}
    assert all(key.endswith("_hidden") for key in left)
