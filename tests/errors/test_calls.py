"""Calls from Python that are nearly right: what is said to who makes them."""

from typing import Any

import pytest

from perceivers.errors import DataError
from perceivers.predictor import Predictor, predict


@pytest.fixture(scope="module")
def predictor(trained) -> Predictor:
    return Predictor(trained / "run")


def message(call: Any, *arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    return str(caught.value)


def test_its_repr_says_what_it_is(predictor):
    text = repr(predictor)
    assert text.startswith("Predictor(photo (image), facts (number) → label (category); ")
    assert text.endswith(" parameters on cpu)")


def test_a_column_without_its_input(predictor):
    found = message(predictor, {"age": 50})
    assert found == "'age' is no input but a column of 'facts': give {'facts': {'age': …}}."


@pytest.mark.parametrize("one", ["abc", b"abc", {"facts": {"age": 50}}])
def test_one_thing_is_no_list_of_samples(predictor, one):
    assert message(predictor.answers, one).startswith(f"got one {type(one).__name__}, wanted a list of samples")


def test_what_follows_the_inputs_has_a_name(predictor):
    with pytest.raises(TypeError, match="positional"):
        predict(predictor, [{"facts": {"age": 50}}], "answers.csv")
