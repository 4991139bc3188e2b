"""Elements and Batch: checked when made, moved, kept and left out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.elements import Batch, Elements
from perceivers.errors import DataError

VALUES = torch.arange(24.0).reshape(2, 4, 3)


def test_a_grid_and_its_mask():
    mask = torch.tensor([[True, False, True, True], [True] * 4])
    elements = Elements(VALUES, grid=(2, 2), mask=mask)
    assert torch.equal(elements.present, mask)
    assert Elements(VALUES, grid=(4,)).present.all()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"values": VALUES[0], "grid": (4,)}, ["(B, M, C)", "(4, 3)"]),
        ({"values": VALUES}, ["either coords or a grid"]),
        ({"values": VALUES, "grid": (4,), "coords": torch.zeros(2, 4, 1)}, ["not both"]),
        ({"values": VALUES, "grid": (2, 3)}, ["(2, 3)", "6 cells", "4 elements"]),
        ({"values": VALUES, "coords": torch.zeros(2, 5, 1)}, ["(2, 4, A)", "(2, 5, 1)"]),
        ({"values": VALUES, "coords": torch.zeros(2, 4)}, ["(2, 4, A)", "(2, 4)"]),
        ({"values": VALUES, "grid": (4,), "mask": torch.ones(2, 3, dtype=torch.bool)}, ["bool (2, 4)", "(2, 3)"]),
        ({"values": VALUES, "grid": (4,), "mask": torch.ones(2, 4)}, ["bool (2, 4)", "float32"]),
    ],
)
def test_faults_are_named(arguments, parts):
    with pytest.raises(DataError) as caught:
        Elements(**arguments)
    for part in parts:
        assert part in str(caught.value)


@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4))
def test_any_grid_is_taken_when_its_cells_are_the_elements(batch, height, width):
    elements = Elements(torch.zeros(batch, height * width, 2), grid=(height, width))
    assert elements.present.shape == (batch, height * width)


def test_keep_masks_the_other_samples_whole_and_changes_no_value():
    mask = torch.tensor([[True, False, True, True], [True] * 4])
    kept = Elements(VALUES, grid=(4,), mask=mask).keep(torch.tensor([True, False]))
    assert torch.equal(kept.present, torch.tensor([[True, False, True, True], [False] * 4]))
    assert torch.equal(kept.values, VALUES)
    assert torch.equal(
        Elements(VALUES, grid=(4,)).keep(torch.tensor([False, True])).present.any(1), torch.tensor([0, 1]) > 0
    )


def test_to_moves_every_tensor_and_keeps_the_grid():
    moved = Elements(VALUES, coords=torch.zeros(2, 4, 1), mask=torch.ones(2, 4, dtype=torch.bool)).to("meta")
    assert {moved.values.device.type, moved.coords.device.type, moved.mask.device.type} == {"meta"}
    gridded = Elements(VALUES, grid=(2, 2)).to("meta")
    assert gridded.grid == (2, 2)
    assert gridded.mask is None


def test_batch_checks_its_sizes():
    elements = Elements(VALUES, grid=(4,))
    with pytest.raises(DataError, match=r"input 'x' has 2 samples in a batch of 3.*mask the row"):
        Batch({"x": elements}, 3)
    with pytest.raises(DataError, match="target 'y' has 1 rows in a batch of 2"):
        Batch({"x": elements}, 2, {"y": torch.zeros(1)})
    assert Batch({}, 5).size == 5


def test_batch_moves_and_leaves_out():
    batch = Batch({"x": Elements(VALUES, grid=(4,)), "z": Elements(VALUES, grid=(4,))}, 2, {"y": torch.zeros(2)})
    moved = batch.to("meta")
    assert moved.inputs["x"].values.device.type == moved.targets["y"].device.type == "meta"
    without = batch.without("x", "never there")
    assert list(without.inputs) == ["z"]
    assert set(batch.inputs) == {"x", "z"}
    assert without.targets is batch.targets
