"""Optical flow of any size: tiles as the official notebook cuts and blends them, and the colour wheel."""

import numpy as np
import pytest
import torch

import perceivers
from perceivers.errors import DataError, ModelError
from perceivers.flow_tiles import edge_distance, flow_picture, optical_flow, tiles

SPEC = {
    "inputs": {"pair": {"kind": "image_pair", "size": [40, 48], "position": {"kind": "fourier", "bands": 2}}},
    "latents": {"count": 4, "channels": 16},
    "encoder": {"layers": 1, "self_attend": {"heads": 2}},
    "decoder": {"kind": "cross_attend", "query_residual": False},
    "outputs": {"flow": {"kind": "flow"}},
}


@pytest.fixture(scope="module")
def model():
    model = perceivers.build(SPEC, seed=0).eval()
    with torch.no_grad():
        # It starts at zero, and zero flow would show no fault of a tile.
        torch.nn.init.normal_(model.outputs["flow"].head.weight)
    return model


def pair(height: int, width: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8))


def test_the_official_tiles():
    assert len(tiles(436, 1024, (368, 496))) == 6
    assert sorted({row for row, _ in tiles(436, 1024, (368, 496))}) == [0, 68]
    assert sorted({column for _, column in tiles(436, 1024, (368, 496))}) == [0, 476, 528]
    assert tiles(368, 496, (368, 496)) == {(0, 0): 4}, "the last tile of each axis moves back to the first"


def test_small_tiles_overlap_by_half_of_their_side():
    assert sorted(tiles(30, 3, (16, 1))) == [(row, column) for row in (0, 8, 14) for column in range(3)]
    small = perceivers.build({**SPEC, "inputs": {"pair": {**SPEC["inputs"]["pair"], "size": [16, 20]}}}, seed=0)
    assert np.isfinite(optical_flow(small, *pair(33, 47))).all()


def test_edge_distance():
    assert edge_distance((3, 5)).tolist() == [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]


def test_one_tile_is_the_model(model):
    first, second = pair(40, 48)
    with torch.no_grad():
        wanted = model({"pair": [first, second]})["flow"][0].numpy()
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(optical_flow(model, first, second), wanted, rtol=1e-6, atol=1e-7)


def test_blending_is_a_weighted_mean(model):
    first, second = pair(60, 76)
    total, weights = np.zeros((60, 76, 2)), np.zeros((60, 76, 1))
    for top in (0, 20, 20):
        for left in (0, 28, 28):
            with torch.no_grad():
                flow = model({"pair": [image[top : top + 40, left : left + 48] for image in (first, second)]})["flow"]
            for y in range(40):
                for x in range(48):
                    weight = min(y + 1, 40 - y, x + 1, 48 - x)
                    total[top + y, left + x] += weight * flow[0, y, x].numpy()
                    weights[top + y, left + x] += weight
    np.testing.assert_allclose(optical_flow(model, first, second), total / weights, rtol=1e-5, atol=1e-6)


def test_any_size_is_covered_to_its_edges(model):
    told = []
    flow = optical_flow(model, *pair(50, 101), advance=lambda *step: told.append(step))
    assert flow.shape == (50, 101, 2)
    assert np.isfinite(flow).all()
    assert told[0] == ("tiles", 0, 6)
    assert told[-1] == ("tiles", 6, 6)


def test_a_small_pair_is_filled_up(model):
    first, second = pair(10, 60)
    filled = [np.pad(image, [(0, 30), (0, 0), (0, 0)], mode="edge") for image in (first, second)]
    found = optical_flow(model, first, second)
    assert found.shape == (10, 60, 2)
    np.testing.assert_array_equal(found, optical_flow(model, *filled)[:10])


def test_the_colour_wheel():
    flow = np.array([[[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [np.nan, 0.0]]])
    assert flow_picture(flow).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 255, 255], [0, 0, 0]]]
    assert flow_picture(flow, most=2.0)[0, 0].tolist() == [255, 128, 128]


def test_errors(model):
    first, second = pair(40, 48)
    with pytest.raises(DataError, match="wanted one size"):
        optical_flow(model, first, second[:30])
    with pytest.raises(DataError, match="the first image is 40×48, the second one 30×48; wanted one size"):
        model({"pair": [first, second[:30]]})
    with pytest.raises(DataError, match="the pair has no second image"):
        model({"pair": {"first": first}})
    number = {"kind": "number", "columns": ["x"], "mean": [0.0], "std": [1.0]}
    other = perceivers.build({"inputs": {"a": number}, "outputs": {"b": {"kind": "category", "classes": ["u", "v"]}}})
    with pytest.raises(ModelError, match="whose only input is an image_pair"):
        optical_flow(other, first, second)
