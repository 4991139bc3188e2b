"""The near miss that messages name: one helper for all of them."""

import pytest

from perceivers.errors import near_miss, unknown


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("Label", ["label", "table"], "label"),
        ("ID", ["id", "age"], "id"),
        ("LABLE", ["age", "label"], "label"),
        ("idd", ["ID"], "ID"),
        ("label", ["LABEL", "Label"], "Label"),
        ("latnets", ["latents"], "latents"),
        (7, ["7", "8"], "7"),
    ],
)
def test_close_names(name, known, meant):
    assert near_miss(name, known) == f" Did you mean '{meant}'?"


def test_none_is_close():
    assert near_miss("age", ["label", "weight"]) == ""
    assert near_miss("age", []) == ""


def test_a_part_of_a_name_where_asked():
    known = ["perceiver-io-imagenet-conv", "perceiver-imagenet-fourier", "perceiver-io-flow"]
    assert near_miss("Flow", known) == ""
    assert near_miss("Flow", known, parts=True) == " Did you mean 'perceiver-io-flow'?"
    assert near_miss("imagenet", known, parts=True) == "", "which of them nobody knows"
    assert "Did you mean 'perceiver-io-flow'?" in str(unknown("preset", "flow", known))
