"""`number` as an input: several columns at once, each cell an element."""

import numpy as np
import pytest
import torch

from perceivers.errors import DataError, SpecError
from perceivers.inputs.number import NumberInput

COLUMNS = NumberInput(columns=("height", "weight"), channels=3)
FITTED = COLUMNS.with_changes(mean=(10.0, 100.0), std=(2.0, 50.0))


def test_cells_by_name_or_in_order():
    for value in ({"weight": 2, "height": "1"}, [1, 2], np.array([1, 2])):
        sample = COLUMNS.parse(value)
        assert sample.values.tolist() == [[1.0], [2.0]]
        assert sample.mask is None
    assert NumberInput(columns=("x",)).parse(5).values.tolist() == [[5.0]]
    assert COLUMNS.table_columns("anything") == ["height", "weight"]
    assert COLUMNS.elements() == 2


@pytest.mark.parametrize("cell", [None, "", float("nan"), float("inf"), "-inf"])
def test_missing_cells_are_masked(cell):
    sample = COLUMNS.parse({"height": 1, "weight": cell})
    assert sample.mask.tolist() == [True, False]
    assert sample.masked == 1
    assert COLUMNS.parse({"height": 1}).mask.tolist() == [True, False]


def test_statistics_of_the_real_cells():
    rows = [[1, 5], [3, None], [float("inf"), 9]]
    fitted = COLUMNS.fit([COLUMNS.parse(row) for row in rows])
    assert fitted.mean == (2.0, 7.0)
    assert fitted.std == (1.0, 2.0)
    given = COLUMNS.with_changes(mean=(0.0, 0.0))
    assert given.fit([COLUMNS.parse(row) for row in rows]).mean == (0.0, 0.0)


@pytest.mark.parametrize("rows", [1, 7])
def test_a_constant_column_has_standard_deviation_one(rows):
    assert COLUMNS.fit([COLUMNS.parse([0.1, 1e9])] * rows).std == (1.0, 1.0)


def test_a_column_without_numbers():
    with pytest.raises(DataError, match="column 'weight' has no number in the training split; leave it out"):
        COLUMNS.fit([COLUMNS.parse([1, None])])
    with pytest.raises(DataError, match="column 'height' has no number"):
        COLUMNS.fit([])


def test_each_standardised_number_scales_its_columns_vector():
    module = FITTED.build()
    lifted = module(FITTED.collate([FITTED.parse([12, 0]), None, FITTED.parse([None, 150])]))
    assert lifted.add
    assert module.channels == 3
    torch.testing.assert_close(lifted.content[0], torch.tensor([[1.0], [-2.0]]) * module.weight)
    assert lifted.mask.tolist() == [[True, True], [False, False], [False, True]]
    assert not lifted.content[1].any()
    torch.testing.assert_close(lifted.joined()[2, 1], module.weight[1] + module.position.table[1])


def test_large_numbers_keep_their_differences():
    """Times in seconds: float32 knows them to two minutes only."""
    settings = NumberInput(columns=("time",), mean=(1.7e9,), std=(10.0,), channels=1)
    module = settings.build()
    content = module(settings.collate([settings.parse([1.7e9 + s]) for s in (0, 10)])).content
    torch.testing.assert_close(content[1] - content[0], module.weight[None][0])


def test_settings_that_cannot_be_built():
    with pytest.raises(SpecError, match="mean and std are not known yet"):
        COLUMNS.build()
    with pytest.raises(SpecError, match="mean has 1 numbers for 2 columns"):
        COLUMNS.with_changes(mean=(1.0,), std=(1.0, 1.0)).build()
