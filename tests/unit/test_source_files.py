"""Files read run by run: the same numbers as read whole, from every kind of file; faults name the file."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr

from perceivers.data.sources import open_source
from perceivers.errors import DataError
from perceivers.sources import Source

PICTURE = np.random.default_rng(0).integers(0, 60000, (50, 40, 3)).astype(np.uint16)


def whole(source):
    return np.concatenate([values.numpy() for _, values, _ in source.read()])


def write_npy(path):
    np.save(path, PICTURE)


def write_tiff(path):
    tifffile.imwrite(path, PICTURE, photometric="rgb")


def write_tiled(path):
    tifffile.imwrite(path, PICTURE, photometric="rgb", tile=(16, 16), compression="zlib")


def write_bands_first(path):
    tifffile.imwrite(path, np.moveaxis(PICTURE, -1, 0), photometric="minisblack", planarconfig="separate")


def write_zarr(path):
    zarr.create_array(path, data=PICTURE, chunks=(16, 16, 3))


FILES = [
    ("a.npy", write_npy),
    ("a.tif", write_tiff),
    ("tiled.tiff", write_tiled),
    ("bands.tif", write_bands_first),
    ("a.zarr", write_zarr),
]


@pytest.mark.parametrize(("name", "write"), FILES, ids=[write.__name__ for _, write in FILES])
def test_pictures(name, write, tmp_path):
    write(tmp_path / name)
    source = open_source(tmp_path / name, axes=2)
    assert source.shape == PICTURE.shape
    np.testing.assert_array_equal(whole(source), PICTURE.astype(np.float32))
    cut = open_source(tmp_path / name, axes=2, window=((10, 35), (5, 40)))
    np.testing.assert_array_equal(whole(cut), PICTURE[10:35, 5:40].astype(np.float32))
    np.testing.assert_array_equal(whole(cut.part(3, 20)), PICTURE[13:30, 5:40].astype(np.float32))


def test_an_array_without_channels_gets_one(tmp_path):
    np.save(tmp_path / "grey.npy", PICTURE[..., 0])
    np.testing.assert_array_equal(whole(open_source(tmp_path / "grey.npy", axes=2)), PICTURE[..., :1])


def test_columns_of_parquet(tmp_path):
    a, b = np.arange(1000.0), np.arange(1000)[::-1].copy()
    table = pa.table({"a": [None, *a[1:]], "b": b, "name": ["x"] * 1000})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=300)
    source = open_source(tmp_path / "t.parquet", columns=["b", "a"])
    wanted = np.stack([b, a], -1).astype(np.float32)
    wanted[0, 1] = np.nan
    np.testing.assert_array_equal(whole(source), wanted)
    np.testing.assert_array_equal(whole(source.part(250, 650)), wanted[250:650])
    with pytest.raises(DataError, match="column 'name' holds string, not numbers"):
        open_source(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"unknown column 'c'"):
        open_source(tmp_path / "t.parquet", columns=["c"])


def test_a_pass_decodes_every_row_group_of_parquet_once(tmp_path, monkeypatch):
    """However its runs cut them; and a slice alone does not read on behind its end."""
    monkeypatch.setattr("perceivers.data.sources.PARQUET_ROWS", 50)
    decoded, begin = [], pq.ParquetFile.iter_batches

    def counting(file, *given, **named):
        for batch in begin(file, *given, **named):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counting)
    values = np.arange(1000.0)[:, None]
    pq.write_table(pa.table({"a": values[:, 0]}), tmp_path / "t.parquet", row_group_size=300)
    columns = open_source(tmp_path / "t.parquet")._array[0]
    source = Source.of(columns, run_rows=70)
    for _ in range(2):
        decoded.clear()
        np.testing.assert_array_equal(whole(source), values.astype(np.float32))
        assert sum(decoded) == 1000
    decoded.clear()
    np.testing.assert_array_equal(columns[310:330], values[310:330])
    assert sum(decoded) == 50
    together = zip(source.part(0, 500).read(), source.part(500, 1000).read(), strict=True)
    for (first, one, _), (second, other, _) in together:
        np.testing.assert_array_equal(one, values[first : first + len(one)])
        np.testing.assert_array_equal(other, values[second : second + len(other)])


def test_what_is_no_source(tmp_path):
    for name in ("x.npy", "x.tif", "x.parquet"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(DataError, match=name):
            open_source(tmp_path / name)
    with pytest.raises(DataError, match=r"'\.png'"):
        open_source(tmp_path / "x.png")
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "y.npy")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(DataError, match="wanted numbers"):
        open_source(tmp_path / "words.npy")
    np.save(tmp_path / "a.npy", PICTURE)
    with pytest.raises(DataError, match="window"):
        open_source(tmp_path / "a.npy", window=((0, 51), (0, 3)))
    with pytest.raises(DataError, match="columns are of Parquet files"):
        open_source(tmp_path / "a.npy", columns=["a"])
    zarr.create_group(tmp_path / "g.zarr").create_array("bands", shape=(2, 2), dtype="f4")
    with pytest.raises(DataError, match="give one of its arrays: bands"):
        open_source(tmp_path / "g.zarr")


def write_parquet(path):
    table = pa.table({"a": np.arange(20000.0)})
    pq.write_table(table, path, row_group_size=5000, compression="zstd", use_dictionary=False)


def damage(path):
    """The middle of the data, with whatever opens the file left as it is."""
    if path.suffix == ".zarr":
        chunk = sorted(part for part in (path / "c").rglob("*") if part.is_file())[-1]
        chunk.write_bytes(b"nonsense")
        return
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle - 200 : middle + 200] = b"\xff" * 400
    path.write_bytes(bytes(whole))


@pytest.mark.parametrize(("name", "write"), [("a.zarr", write_zarr), ("a.parquet", write_parquet)])
def test_damage_further_on_names_file_and_rows(name, write, tmp_path):
    write(tmp_path / name)
    damage(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}', rows \d+ to \d+ cannot be read: .+ write it anew"):
        whole(open_source(tmp_path / name))


def test_damage_that_makes_up_a_size(tmp_path, monkeypatch):
    write_zarr(tmp_path / "a.zarr")
    source = open_source(tmp_path / "a.zarr")

    def fail(array, rows):
        raise MemoryError("Unable to allocate 9 EiB")

    monkeypatch.setattr(zarr.Array, "__getitem__", fail)
    with pytest.raises(DataError, match="rows 0 to 50 cannot be read: Unable to allocate 9 EiB"):
        whole(source)


def test_an_array_that_is_damaged_where_it_begins(tmp_path):
    write_zarr(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.zarr' is damaged"):
        open_source(tmp_path / "a.zarr")


def test_damage_within_compressed_pixels(tmp_path):
    write_tiled(tmp_path / "a.tif")
    damage(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif' is a truncated, damaged or unknown TIFF"):
        open_source(tmp_path / "a.tif")


def test_no_room_to_unpack_is_told_from_damage(tmp_path, monkeypatch):
    write_tiled(tmp_path / "a.tif")
    write_tiff(tmp_path / "plain.tif")
    free = SimpleNamespace(free=PICTURE.nbytes - 1)
    monkeypatch.setattr("perceivers.data.sources.shutil.disk_usage", lambda folder: free)
    with pytest.raises(DataError, match=r"a\.tif' is compressed or in tiles, .* Make room, or set TMPDIR"):
        open_source(tmp_path / "a.tif")
    assert open_source(tmp_path / "plain.tif").shape == PICTURE.shape


def test_an_unpacked_file_goes_with_its_source(tmp_path, monkeypatch):
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "unpacked"))
    write_tiled(tmp_path / "a.tif")
    gc.disable()
    try:
        source = open_source(tmp_path / "a.tif")
        held = weakref.ref(source)
        whole(source)
        del source
        assert held() is None
        assert not list((tmp_path / "unpacked").iterdir())
    finally:
        gc.enable()
