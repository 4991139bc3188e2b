"""What a cell of a table means."""

import math

import numpy as np
import pytest

from perceivers.cells import cells_of, class_name, is_missing, number, real_spread
from perceivers.errors import DataError


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("cat", "cat"),
        (" cat ", "cat"),
        (3, "3"),
        (3.0, "3"),
        (np.float32(3.0), "3"),
        (np.int64(3), "3"),
        (2.5, "2.5"),
        (True, "true"),
        (np.bool_(False), "false"),
        (math.inf, "inf"),
        ("", None),
        ("  ", None),
        (None, None),
        (math.nan, None),
        (np.float32("nan"), None),
    ],
)
def test_class_names(cell, name):
    assert class_name(cell) == name


@pytest.mark.parametrize(
    ("cell", "value"), [(1, 1.0), ("2.5", 2.5), (" 7 ", 7.0), (True, 1.0), (np.int8(3), 3.0), ("1e3", 1000.0)]
)
def test_numbers(cell, value):
    assert number(cell) == value


@pytest.mark.parametrize("cell", [None, "", "  ", math.nan, "nan"])
def test_missing_numbers_are_nan(cell):
    assert math.isnan(number(cell))


@pytest.mark.parametrize("cell", ["two", "1,5", [1], {}, 10**400])
def test_what_is_no_number(cell):
    with pytest.raises(DataError, match="is not a number"):
        number(cell)


def test_missing_cells():
    assert all(is_missing(cell) for cell in (None, "", " ", b"", math.nan, np.float64("nan")))
    assert not any(is_missing(cell) for cell in (0, 0.0, "0", False, math.inf, [], np.zeros(0)))


def test_cells_in_the_order_of_the_columns():
    columns = ("a", "b", "c")
    assert cells_of({"c": 3, "a": 1}, columns) == [1, None, 3]
    assert cells_of((1, 2, 3), columns) == [1, 2, 3]
    assert cells_of(np.array([1, 2, 3]), columns) == [1, 2, 3]
    assert cells_of("abc", ("a",)) == ["abc"]
    assert cells_of(5, ("a",)) == [5]


def test_cells_that_do_not_fit_the_columns():
    with pytest.raises(DataError, match=r"no column 'heigth'\. Did you mean 'height'\? Columns: height, width"):
        cells_of({"heigth": 1}, ("height", "width"))
    with pytest.raises(DataError, match=r"got 1 values for 2 columns \(height, width\)"):
        cells_of([1], ("height", "width"))


@pytest.mark.parametrize("value", [0.1, 1e-12, 1e12, -0.3, 0.0])
@pytest.mark.parametrize("rows", [2, 7, 1000])
def test_the_spread_of_a_constant_is_nothing(value, rows):
    column = np.full((rows, 1), value)
    for values in (np.float32, np.float64):
        assert real_spread(column.mean(0), column.std(0), values).tolist() == [0.0]


def test_a_small_but_real_spread_stays():
    column = np.array([[1e6], [1e6 + 1]])
    assert real_spread(column.mean(0), column.std(0), np.float32).tolist() == [0.5]


def test_what_only_float64_can_tell_apart():
    column = np.array([[1.7e9], [1.7e9 + 1]])
    assert real_spread(column.mean(0), column.std(0), np.float32).tolist() == [0.0]
    assert real_spread(column.mean(0), column.std(0), np.float64).tolist() == [0.5]


@pytest.mark.parametrize("cell", ["1_000", b"1_000", " 1_0.5"])
def test_underscores_are_no_part_of_a_number(cell):
    with pytest.raises(DataError, match="is not a number"):
        number(cell)


@pytest.mark.parametrize("word", ["NA", " n/a ", "null", "NULL", "NaN", "#N/A", "None"])
def test_words_for_no_number(word):
    """As in a column of CSV that holds numbers alone: one bad cell must not change what the others mean."""
    assert math.isnan(number(word))
