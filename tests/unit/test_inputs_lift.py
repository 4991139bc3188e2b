"""Lifts: pixels, patches, 1×1 convolution and stem; their grids, values and masks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.errors import SpecError
from perceivers.inputs.image import ImageInput
from perceivers.inputs.lift import Conv, Conv1x1, Patches, Pixels
from perceivers.inputs.series import SeriesInput
from perceivers.nn.stem import space_to_depth

X = torch.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3).sin()


def test_pixels_are_the_cells_row_by_row():
    content, mask = Pixels().build(2, 3)(X, None)
    assert torch.equal(content, X.reshape(2, 24, 3))
    assert mask is None


def test_raw_patches():
    lift = Patches(size=(2, 3)).build(2, 3)
    assert lift.channels == 18
    assert lift.cells((4, 6)) == (2, 2)
    content, _ = lift(X, None)
    assert torch.equal(content, space_to_depth(X, (2, 3)).flatten(1, 2))
    assert torch.equal(content[0, 1], X[0, :2, 3:].flatten())


def test_patches_with_a_linear():
    lift = Patches(size=(2, 3), channels=5).build(2, 3)
    content, _ = lift(X, None)
    torch.testing.assert_close(content, lift.linear(space_to_depth(X, (2, 3)).flatten(1, 2)))
    assert lift.channels == content.shape[-1] == 5


def test_a_patch_with_a_masked_cell_is_masked():
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[0, 3, 5] = False
    _, patches = Patches(size=(2, 3)).build(2, 3)(X, mask)
    assert patches.tolist() == [[True, True, True, False], [True] * 4]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_one_by_one_convolution_is_a_linear_on_every_stride_th_cell(stride):
    lift = Conv1x1(channels=4, stride=stride).build(2, 3)
    mask = torch.arange(24).reshape(1, 4, 6).expand(2, -1, -1) % 5 > 0
    content, elements = lift(X, mask)
    every = X[:, ::stride, ::stride]
    torch.testing.assert_close(content, lift.linear(every).flatten(1, 2))
    assert torch.equal(elements, mask[:, ::stride, ::stride].flatten(1))
    assert lift.cells((4, 6)) == tuple(every.shape[1:3])


def test_stem_is_the_stem():
    lift = Conv(channels=4).build(2, 3).eval()
    content, mask = lift(X, None)
    torch.testing.assert_close(content, lift.stem(X).flatten(1, 2))
    assert mask is None
    assert content.shape[1] == 2, "a quarter of 4×6 cells an axis"


@given(st.integers(5, 17), st.integers(0, 16), st.booleans(), st.integers(1, 2))
def test_a_stem_element_is_masked_when_its_whole_stride_cell_is(length, real, pool, layers):
    real = min(real, length)
    lift = Conv(channels=2, layers=layers, pool=pool).build(1, 1).eval()
    mask = (torch.arange(length) < real)[None]
    with torch.no_grad():
        _, elements = lift(torch.zeros(1, length, 1), mask)
    side = 2 ** (layers * (2 if pool else 1))
    cells = -(-length // side)
    assert elements[0].tolist() == [bool(mask[0, i * side : (i + 1) * side].any()) for i in range(cells)]


def test_absent_samples_do_not_enter_the_batch_statistics():
    mixed, alone = Conv(channels=4).build(2, 3).train(), Conv(channels=4).build(2, 3).train()
    alone.load_state_dict(mixed.state_dict())
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[0] = False
    content, elements = mixed(X * mask[..., None], mask)
    wanted, _ = alone(X[1:], None)
    torch.testing.assert_close(content[1:], wanted)
    assert not content[0].any()
    assert elements.tolist() == [[False, False], [True, True]]
    for name, buffer in mixed.named_buffers():
        torch.testing.assert_close(buffer, alone.get_buffer(name))


def test_a_training_batch_in_which_all_are_absent_counts_nothing():
    lift = Conv(channels=4).build(2, 3).train()
    content, mask = lift(torch.zeros(2, 4, 6, 3), torch.zeros(2, 4, 6, dtype=torch.bool))
    assert content.shape == (2, 2, 4)
    assert not content.any()
    assert not mask.any()
    assert lift.stem.norms[0].count == 0


def test_patches_must_tile():
    with pytest.raises(SpecError, match=r"patches of \(3, 3\) do not tile a grid of \(4, 6\).*multiple"):
        Patches(size=(3, 3)).build(2, 3).cells((4, 6))
    with pytest.raises(SpecError, match=r"patches of \(2,\) have 1 axes, the input has 2"):
        Patches(size=(2,)).build(2, 3)
    image = ImageInput(size=(4, 6), lift=Patches(size=(3, 3)), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(SpecError, match="do not tile"):
        image.build()


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (ImageInput(size=(224, 224)), 50_176),
        (ImageInput(size=(224, 224), lift=Conv()), 3136),
        (ImageInput(size=(224, 224), lift=Patches(size=(16, 16))), 196),
        (ImageInput(size=(5, 7), lift=Conv1x1(stride=2)), 12),
        (SeriesInput(rate=50, seconds=2.56), 128),
        (SeriesInput(rate=50, seconds=2.56, lift=Patches(size=(8,))), 16),
        (SeriesInput(seconds=2.0), 0),
    ],
)
def test_elements_are_counted_without_building_the_model(settings, count):
    assert settings.elements() == count
