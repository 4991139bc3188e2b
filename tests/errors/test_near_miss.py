"""The near miss that messages name: one helper for all of them."""

import pytest

from perceivers.errors import near_miss


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
        # A part of a name: the shortest that has it.
        (
            "ImageNet",
            ["perceiver-io-imagenet-conv", "perceiver-imagenet-fourier-2", "perceiver-io-flow"],
            "perceiver-io-imagenet-conv",
        ),
    ],
)
def test_close_names(name, known, meant):
    assert near_miss(name, known) == f" Did you mean '{meant}'?"


def test_none_is_close():
    assert near_miss("age", ["label", "weight"]) == ""
    assert near_miss("age", []) == ""
