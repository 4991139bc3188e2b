"""`series`: regular and irregular, from arrays, JSON and files."""

import json

import numpy as np
import pytest
import torch

from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs.series import SeriesInput
from perceivers.positions import fourier_features

REGULAR = SeriesInput(channels=2, rate=10, seconds=0.5)
IRREGULAR = SeriesInput(channels=1, seconds=4.0)
KNOWN = {"mean": (1.0, -1.0), "std": (2.0, 4.0)}
STEPS = np.arange(10.0).reshape(5, 2)


def test_the_grid_is_rate_times_seconds():
    assert REGULAR.steps == 5
    assert SeriesInput(rate=50, seconds=2.56).steps == 128
    assert SeriesInput(rate=1, seconds=0.1).steps == 1


@pytest.mark.parametrize("form", ["array", "list", "json", "npy", "csv", "txt", "mapping", "mapping with rate"])
def test_all_ways_to_give_a_regular_series(form, tmp_path):
    value = {
        "array": STEPS,
        "list": STEPS.tolist(),
        "json": json.dumps(STEPS.tolist()),
        "npy": tmp_path / "x.npy",
        "csv": str(tmp_path / "x.csv"),
        "txt": tmp_path / "x.txt",
        "mapping": {"values": STEPS},
        "mapping with rate": {"values": STEPS, "rate": 10},
    }[form]
    np.save(tmp_path / "x.npy", STEPS)
    for name in ("x.csv", "x.txt"):
        (tmp_path / name).write_text("\n".join(",".join(map(str, row)) for row in STEPS) + "\n")
    sample = REGULAR.parse(value)
    assert sample.values.dtype == np.float32
    np.testing.assert_array_equal(sample.values, STEPS)
    assert sample.mask is None
    assert sample.coords is None


def test_one_channel_needs_no_second_axis_and_null_is_missing():
    sample = SeriesInput(rate=1, seconds=3).parse("[1, null, 3]")
    assert sample.values.shape == (3, 1)
    assert sample.mask.tolist() == [True, False, True]
    assert sample.masked == 1


def test_empty_cells_of_a_file_are_missing(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n3,\n\n5,6\n")
    sample = SeriesInput(channels=2, rate=1, seconds=3).parse(tmp_path / "x.csv")
    assert sample.mask.tolist() == [True, False, True]


def test_a_short_series_is_masked_at_its_end():
    values = STEPS[:3].copy()
    values[1, 0] = np.inf
    sample = REGULAR.parse(values)
    assert sample.values.shape == (5, 2)
    assert sample.mask.tolist() == [True, False, True, False, False]
    assert REGULAR.parse(np.zeros((0, 2))).mask.tolist() == [False] * 5


def test_what_float32_cannot_hold_is_masked():
    sample = REGULAR.parse(np.full((5, 2), 1e300))
    assert not sample.mask.any()


def test_an_irregular_series():
    sample = IRREGULAR.parse({"values": [5, 6, 7], "times": [0, 1.5, 4]})
    np.testing.assert_array_equal(sample.values[:, 0], [5, 6, 7])
    np.testing.assert_array_equal(sample.coords[:, 0], [0, 1.5, 4])
    assert IRREGULAR.parse({"values": [], "times": []}).values.shape == (0, 1)


def test_irregular_batches_are_padded_to_the_longest():
    long, short = {"values": [1, 2, float("nan")], "times": [0, 1, 2]}, {"values": [3], "times": [4]}
    elements = IRREGULAR.collate([IRREGULAR.parse(long), None, IRREGULAR.parse(short)])
    assert elements.grid is None
    assert elements.values.shape == (3, 3, 1)
    assert elements.mask.tolist() == [[True, True, False], [False] * 3, [True, False, False]]
    assert elements.coords[2, 0, 0] == 4
    assert IRREGULAR.collate([None, None]).values.shape == (2, 0, 1)


def test_statistics_ignore_what_is_masked():
    samples = [REGULAR.parse(STEPS), REGULAR.parse([[np.nan, 0], [100, 200]])]
    fitted = REGULAR.fit(samples)
    real = np.concatenate([STEPS, [[100, 200]]])
    np.testing.assert_allclose(fitted.mean, real.mean(0))
    np.testing.assert_allclose(fitted.std, real.std(0))
    assert REGULAR.with_changes(**KNOWN).fit(samples).mean == KNOWN["mean"]


def test_irregular_times_become_positions():
    module = IRREGULAR.with_changes(mean=(1.0,), std=(2.0,)).build()
    coords = torch.tensor([[[0.0], [1.0], [4.0]]])
    lifted = module(Elements(torch.tensor([[[1.0], [3.0], [5.0]]]), coords=coords))
    torch.testing.assert_close(lifted.content[0, :, 0], torch.tensor([0.0, 1.0, 2.0]))
    wanted = fourier_features(torch.tensor([[-1.0], [-0.5], [1.0]]), 16, (1000,))
    torch.testing.assert_close(lifted.position[0], wanted)


def test_masked_events_leave_nothing_infinite_behind():
    module = IRREGULAR.with_changes(mean=(1.0,), std=(2.0,)).build()
    nan = torch.full((1, 3, 1), float("nan"))
    lifted = module(Elements(nan, coords=nan, mask=torch.zeros(1, 3, dtype=torch.bool)))
    assert lifted.joined().isfinite().all()


def test_irregular_positions_keep_their_precision_in_bfloat16():
    module = IRREGULAR.with_changes(mean=(0.0,), std=(1.0,)).build().bfloat16()
    coords = torch.tensor([[[3.999]]])
    position = module(Elements(torch.zeros(1, 1, 1), coords=coords)).position
    wanted = fourier_features(coords / 4 * 2 - 1, 16, (1000,))
    assert position.dtype == torch.bfloat16
    torch.testing.assert_close(position.float(), wanted, rtol=0, atol=0.01)


def test_an_irregular_set_without_positions():
    settings = SeriesInput(seconds=1.0, position={"kind": "none"}, mean=(0.0,), std=(1.0,))
    lifted = settings.build()(settings.collate([settings.parse({"values": [2], "times": [0.5]})]))
    assert lifted.joined().tolist() == [[[2.0]]]


def test_patches_and_stem_of_a_series():
    x = torch.randn(1, 5, 2)
    for lift, cells in (({"kind": "patches", "size": [5], "channels": 3}, 1), ({"kind": "conv", "channels": 3}, 2)):
        module = REGULAR.with_changes(lift=lift, **KNOWN).build().eval()
        lifted = module(Elements(x, grid=(5,)))
        assert lifted.content.shape == (1, cells, 3)
        assert lifted.position.grid == (cells,)


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"no grid to patch or convolve; use lift: \{kind: samples\}"):
        SeriesInput(seconds=1, lift={"kind": "conv"})
    with pytest.raises(ValueError, match="no grid for learned positions; use fourier"):
        SeriesInput(seconds=1, position={"kind": "learned"})
    with pytest.raises(SpecError, match="mean and std are not known yet"):
        REGULAR.build()
    with pytest.raises(SpecError, match="std has 1 numbers, but there are 2 channels"):
        REGULAR.with_changes(mean=(1.0, 1.0), std=(1.0,)).build()


def test_a_batch_that_does_not_fit():
    irregular = IRREGULAR.with_changes(mean=(0.0,), std=(1.0,)).build()
    with pytest.raises(DataError, match="the elements have a grid, but the input takes coordinates"):
        irregular(Elements(torch.zeros(1, 3, 1), grid=(3,)))
    with pytest.raises(DataError, match="the elements have coordinates, but the input takes a grid"):
        REGULAR.with_changes(**KNOWN).build()(Elements(torch.zeros(1, 3, 2), coords=torch.zeros(1, 3, 1)))
