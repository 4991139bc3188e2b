"""`points`: clouds from arrays, JSON and files; normalised by themselves or by bounds; positions of coordinates."""

import json
import struct

import numpy as np
import pytest
import torch

import perceivers
from perceivers.elements import Elements
from perceivers.errors import SpecError
from perceivers.inputs.augment_points import PointsAugmentation
from perceivers.inputs.points import PointsInput
from perceivers.models.build import build
from perceivers.models.spec import as_spec
from perceivers.positions import fourier_features

PLAIN = PointsInput(count=6)
WITH_COLOUR = PointsInput(count=6, channels=2)
CLOUD = np.arange(12.0).reshape(4, 3) ** 2
COLOURED = np.concatenate([CLOUD, CLOUD[:, :2] / 7], axis=1)


def ply(path, order: str, table: np.ndarray, names: list[str]):
    """Vertices with float properties of those names, and a face behind them."""
    lines = ["ply", f"format {order} 1.0", "comment made here", f"element vertex {len(table)}"]
    lines += [f"property float {name}" for name in names]
    lines += ["element face 1", "property list uchar int vertex_indices", "end_header", ""]
    data = "\n".join(lines).encode()
    if order == "ascii":
        data += "".join(" ".join(map(repr, row)) + "\n" for row in table.tolist()).encode() + b"3 0 1 2\n"
    else:
        data += table.astype("<f4" if order == "binary_little_endian" else ">f4").tobytes()
        data += struct.pack("<Biii", 3, 0, 1, 2)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "form", ["array", "list", "json", "npy", "npz", "named npz", "csv", "txt", "xyz", "mapping", "mapping of paths"]
)
def test_all_ways_to_give_a_cloud(form, tmp_path):
    np.save(tmp_path / "x.npy", COLOURED)
    np.save(tmp_path / "coords.npy", CLOUD)
    np.savez(tmp_path / "x.npz", COLOURED)
    np.savez_compressed(tmp_path / "named.npz", points=COLOURED, label=np.array([3]))
    (tmp_path / "x.csv").write_text("\n".join(",".join(map(repr, row)) for row in COLOURED.tolist()))
    (tmp_path / "x.txt").write_text("# x y z r g\n" + "\n".join(" ".join(map(repr, r)) for r in COLOURED.tolist()))
    (tmp_path / "x.xyz").write_text("\n\n".join("\t".join(map(repr, r)) for r in COLOURED.tolist()) + "\n")
    value = {
        "array": COLOURED,
        "list": COLOURED.tolist(),
        "json": json.dumps(COLOURED.tolist()),
        "npy": tmp_path / "x.npy",
        "npz": str(tmp_path / "x.npz"),
        "named npz": tmp_path / "named.npz",
        "csv": tmp_path / "x.csv",
        "txt": tmp_path / "x.txt",
        "xyz": tmp_path / "x.xyz",
        "mapping": {"coords": CLOUD, "values": COLOURED[:, 3:]},
        "mapping of paths": {"coords": str(tmp_path / "coords.npy"), "values": COLOURED[:, 3:].tolist()},
    }[form]
    sample = WITH_COLOUR.parse(value)
    assert sample.coords.dtype == sample.values.dtype == np.float32
    np.testing.assert_array_equal(sample.coords, CLOUD.astype(np.float32))
    np.testing.assert_array_equal(sample.values, COLOURED[:, 3:].astype(np.float32))
    assert sample.mask is None


@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_a_ply_file_has_its_coordinates_first(order, tmp_path):
    path = ply(tmp_path / "x.ply", order, COLOURED[:, [3, 1, 0, 2, 4]], ["red", "y", "x", "z", "green"])
    sample = WITH_COLOUR.parse(path)
    np.testing.assert_allclose(sample.coords, CLOUD)
    np.testing.assert_allclose(sample.values, COLOURED[:, 3:], rtol=1e-6)


def test_one_feature_may_be_a_plain_list():
    kind = PointsInput(count=3, axes=2, channels=1)
    for values in ([5, 6], "[5, 6]", np.array([5, 6], np.uint8)):
        given = kind.parse({"coords": [[0, 1], [2, 3]], "values": values})
        np.testing.assert_array_equal(given.values, [[5], [6]])
    hole = kind.parse({"coords": [[0, 1], [2, 3]], "values": [5, None]})
    assert hole.mask.tolist() == [True, False]


def test_paths_are_relative_to_the_table(tmp_path):
    assert PLAIN.resolved("a.npy", tmp_path) == str(tmp_path / "a.npy")
    assert PLAIN.resolved('{"coords": "a.npy"}', tmp_path) == {"coords": str(tmp_path / "a.npy")}
    assert PLAIN.resolved("[[1, 2, 3]]", tmp_path) == [[1, 2, 3]]
    for mapping in ({"coords": "[[1, 2, 3]]"}, '{"coords": "[[1, 2, 3]]"}'):
        np.testing.assert_array_equal(PLAIN.parse(PLAIN.resolved(mapping, tmp_path)).coords, [[1, 2, 3]])


def test_more_numbers_than_are_read():
    assert PLAIN.with_changes(extra="ignore").parse(COLOURED).coords.tolist() == CLOUD.tolist()


@pytest.mark.parametrize(("overflow", "kept"), [("truncate", [0, 1, 2]), ("spread", [0, 3, 6])])
def test_more_points_than_are_read(overflow, kept):
    cloud = np.arange(30.0).reshape(10, 3)
    sample = PointsInput(count=3, overflow=overflow).parse(cloud)
    np.testing.assert_array_equal(sample.coords, cloud[kept])


def test_a_point_that_is_not_finite_is_masked():
    coloured = COLOURED.copy()
    coloured[1, 2], coloured[2, 4] = np.nan, np.inf
    sample = WITH_COLOUR.parse(coloured)
    assert sample.mask.tolist() == [True, False, False, True]
    assert sample.masked == 2
    assert PLAIN.parse([[1, None, 2], [1, 2, 3]]).mask.tolist() == [False, True]


def test_batches_are_filled_up_to_the_count():
    elements = PLAIN.collate([PLAIN.parse(CLOUD), None, PLAIN.parse([])])
    assert elements.grid is None
    assert elements.values.shape == (3, 6, 0)
    assert elements.coords.shape == (3, 6, 3)
    assert elements.mask.sum(1).tolist() == [4, 0, 0]


def test_features_are_standardised_and_positions_alone_need_nothing():
    samples = [WITH_COLOUR.parse(COLOURED)]
    fitted = WITH_COLOUR.fit(samples)
    np.testing.assert_allclose(fitted.mean, COLOURED[:, 3:].mean(0), rtol=1e-6)
    content = fitted.build()(fitted.collate(samples)).content[0]
    torch.testing.assert_close(content[:4].mean(0), torch.zeros(2))
    assert not content[4:].any()
    assert PLAIN.fit([]) is PLAIN
    assert PLAIN.completed() == (PLAIN, None)
    assert PLAIN.build().channels == 3 * (2 * 16 + 1)


def test_a_cloud_fits_the_cube_about_its_mean():
    setting = PLAIN.with_changes(position={"kind": "fourier", "bands": 3, "resolution": [10, 20, 30]})
    lifted = setting.build()(setting.collate([setting.parse(CLOUD), setting.parse([[5, 5, 5]]), None]))
    centred = torch.from_numpy(CLOUD - CLOUD.mean(0)).float()
    wanted = fourier_features(centred / centred.abs().max(), 3, (10, 20, 30))
    torch.testing.assert_close(lifted.position[0, :4], wanted)
    raw = lifted.position[0, :4, :3]
    assert raw.abs().max() == 1
    assert not lifted.position[1, 0, :3].any(), "one point is the middle"
    assert lifted.joined().isfinite().all()


def test_moved_and_scaled_clouds_are_the_same_to_the_model():
    module = PLAIN.build().double()
    given = torch.from_numpy(CLOUD)[None]
    one = module(Elements(given[..., :0], coords=given)).joined()
    other = module(Elements(given[..., :0], coords=given * 7 - 30)).joined()
    torch.testing.assert_close(one, other)


def test_bounds_keep_size_and_place():
    setting = PLAIN.with_changes(axes=2, bounds=[[0, 10], [-1, 1]], position={"kind": "fourier", "bands": 1})
    lifted = setting.build()(setting.collate([setting.parse([[0, 1], [5, 0]])]))
    torch.testing.assert_close(lifted.position[0, :2, :2], torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


def test_positions_may_be_added_or_left_out():
    added = WITH_COLOUR.with_changes(
        mean=(0, 0), std=(1, 1), position={"kind": "fourier", "bands": 1, "project": 2, "join": "add"}
    )
    assert added.build().channels == 2
    unplaced = WITH_COLOUR.with_changes(mean=(0, 0), std=(1, 1), position={"kind": "none"})
    lifted = unplaced.build()(unplaced.collate([unplaced.parse(COLOURED)]))
    assert lifted.joined().shape == (1, 6, 2)


def test_positions_keep_their_precision_in_bfloat16():
    setting = PLAIN.with_changes(position={"kind": "fourier", "bands": 64, "resolution": [2240] * 3})
    batch = setting.collate([setting.parse(CLOUD)])
    exact, coarse = setting.build()(batch).position, setting.build().bfloat16()(batch).position
    torch.testing.assert_close(coarse, exact.bfloat16())


def test_scaling_moves_every_point_by_itself_and_only_the_seed_decides():
    augment = PLAIN.augmenter(PointsAugmentation(scaling=(0.9, 1.1)))
    sample = PLAIN.parse(CLOUD + 1)
    changed = augment(sample, (0, 1, 2))
    shares = changed.coords / sample.coords
    np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape), rtol=1e-5)
    assert len(np.unique(shares[:, 0].round(5))) == 4
    assert 0.9 <= shares.min() < shares.max() <= 1.1
    np.testing.assert_array_equal(changed.coords, augment(sample, (0, 1, 2)).coords)
    assert not np.array_equal(changed.coords, augment(sample, (0, 1, 3)).coords)
    assert PLAIN.augmenter(PointsAugmentation())(sample, (0,)) is sample


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"position": {"kind": "learned"}}, "points lie on no grid"),
        ({"position": {"kind": "none"}}, "all the same"),
        ({"bounds": [[0, 1]]}, "bounds has 1 pairs, but there are 3 axes"),
        ({"bounds": [[0, 1], [1, 1], [0, 1]]}, "(smallest, largest)"),
        ({"mean": [0.0]}, "channels is 0"),
        ({"position": {"kind": "fourier", "resolution": [9, 9]}}, "resolution has 2 axes"),
    ],
)
def test_settings_that_do_not_fit(settings, said):
    output = {"label": {"kind": "category", "classes": ["a", "b"]}}
    with pytest.raises(SpecError) as caught:
        build(as_spec({"inputs": {"cloud": {"kind": "points", "count": 4, **settings}}, "outputs": output}))
    assert said in str(caught.value)


def test_a_model_reads_points_alone():
    spec = {
        "inputs": {"cloud": {"kind": "points", "count": 700}},
        "latents": {"count": 4, "channels": 16},
        "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
    }
    model = perceivers.build(spec, seed=0)
    cloud = np.random.default_rng(0).normal(size=(650, 3))
    (whole,) = model({"cloud": cloud}).values()
    holed = cloud.copy()
    holed[3] = np.nan
    (lacking,) = model({"cloud": holed}).values()
    (without,) = model({"cloud": np.delete(cloud, 3, axis=0)}).values()
    torch.testing.assert_close(lacking, without)
    assert not torch.equal(whole, lacking)
