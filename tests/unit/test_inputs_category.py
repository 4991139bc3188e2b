"""`category` as an input: several columns of classes at once."""

import pytest
import torch

from perceivers.errors import DataError, SpecError
from perceivers.inputs.category import CategoryInput

COLUMNS = CategoryInput(columns=("colour", "size"), channels=3)
FITTED = COLUMNS.with_changes(classes={"size": ("L", "S"), "colour": ("blue", "green", "red")})


def test_before_training_the_names_are_kept():
    sample = COLUMNS.parse({"size": "S", "colour": None})
    assert sample.values[:, 0].tolist() == ["", "S"]
    assert sample.mask.tolist() == [False, True]


def test_classes_are_learned_sorted_and_empty_cells_are_none():
    rows = [["red", "S"], ["blue", None], ["green", "L"], [" red ", "S"], [None, ""]]
    fitted = COLUMNS.fit(iter([COLUMNS.parse(row) for row in rows]))
    assert fitted.classes == {"colour": ("blue", "green", "red"), "size": ("L", "S")}
    assert FITTED.fit([]) is FITTED


def test_after_training_they_are_indices():
    sample = FITTED.parse({"size": "S", "colour": "red"})
    assert sample.values.tolist() == [[2], [1]]
    assert sample.mask is None
    numbers = CategoryInput(columns=("n",), classes={"n": ("3", "true")})
    assert [numbers.parse([cell]).values[0, 0] for cell in (3.0, 3, "3", True)] == [0, 0, 0, 1]


@pytest.mark.parametrize("cell", [None, "", "purple", float("nan")])
def test_empty_cells_and_classes_never_trained_on_are_masked(cell):
    sample = FITTED.parse([cell, "S"])
    assert sample.mask.tolist() == [False, True]
    assert sample.values[0, 0] == 0, "an index that the embedding has"
    with pytest.raises(DataError, match="columns colour are empty or hold an unknown class"):
        FITTED.with_changes(nan="error").parse([cell, "S"])


def test_each_class_of_each_column_has_its_own_vector():
    module = FITTED.build()
    assert module.embedding.weight.shape == (5, 3)
    lifted = module(FITTED.collate([FITTED.parse(["red", "S"]), None]))
    assert torch.equal(lifted.content[0], module.embedding.weight[[2, 4]])
    assert lifted.mask.tolist() == [[True, True], [False, False]]
    torch.testing.assert_close(lifted.joined()[0, 1], module.embedding.weight[4] + module.position.table[1])


def test_faults():
    with pytest.raises(DataError, match="column 'size' is empty in the training split"):
        COLUMNS.fit([COLUMNS.parse(["red", None])])
    with pytest.raises(SpecError, match="classes are not known yet"):
        COLUMNS.build()
    with pytest.raises(SpecError, match="no classes are given for column size"):
        COLUMNS.with_changes(classes={"colour": ("red",)})
    with pytest.raises(SpecError, match=r"classes are given for 'sise', which is no column\. Did you mean 'size'\?"):
        COLUMNS.with_changes(classes={"colour": ("red",), "sise": ("S",)})
