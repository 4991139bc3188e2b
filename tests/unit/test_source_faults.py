"""Sources that are not what they say, end where no patch does, or lie in damaged files: one error each, or no loss."""

import gc
import weakref

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
import zarr

from perceivers import Predictor, Source, build, open_source, predict
from perceivers.errors import DataError

IMAGE = {"kind": "image", "size": [20, 12], "channels": 2, "mean": [0, 0], "std": [1, 1]}
SERIES = {"kind": "series", "channels": 2, "seconds": 10, "mean": [0, 0], "std": [1, 1]}
REGULAR = {**SERIES, "rate": 20}
PATCHES = {"kind": "patches", "size": [4], "channels": 6}


def a_model(scene):
    spec = {
        "inputs": {"scene": scene},
        "latents": {"count": 3, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
    }
    return build(spec, seed=0).double()


def encoded(model, value):
    with torch.no_grad():
        return model.encode({"scene": value})


def refusal(model, source):
    with pytest.raises(DataError) as caught:
        encoded(model, source)
    return str(caught.value)


@pytest.mark.parametrize("height", [1, 6, 7, 1000])
@pytest.mark.parametrize("length", [150, 151, 153, 200])
def test_a_source_may_end_inside_a_patch(length, height):
    model, values = a_model({**REGULAR, "lift": PATCHES}), np.random.default_rng(0).normal(size=(length, 2))
    values = values.astype(np.float32)
    source = Source.of(values, run_rows=height)
    torch.testing.assert_close(encoded(model, source), encoded(model, values), rtol=1e-12, atol=1e-12)
    assert source.masked == 0, "what is not there was not lost"


def test_rows_that_end_inside_a_patch_of_a_longer_source():
    model = a_model({**IMAGE, "lift": {**PATCHES, "size": [4, 4]}})
    source = Source.of(np.zeros((20, 12, 2)), rows=(0, 10))
    assert "its rows end at 10, which is no multiple of the patch's 4" in refusal(model, source)


class TestCoordinates:
    def source(self, times, axes=1):
        coords = np.repeat(np.array(times, np.float32)[:, None], axes, 1)
        return Source((len(times), 2), lambda: iter([(np.zeros((len(times), 2)), coords)]), coords=True, name="buoy")

    @pytest.mark.parametrize("position", [{"kind": "fourier", "bands": 3}, {"kind": "none"}])
    def test_of_other_axes(self, position):
        found = refusal(a_model({**SERIES, "position": position}), self.source([1, 2], axes=2))
        assert found == "buoy, rows 0 to 2: wanted coordinates of 1 axes; got 2."

    @pytest.mark.parametrize("times", [[1, 11], [-1, 3]])
    def test_beyond_the_span(self, times):
        found = refusal(a_model(SERIES), self.source(times))
        assert found == (
            f"buoy, rows 0 to 2: coordinates must lie between 0 and 10.0; got {min(times)} to {max(times)}."
        )

    def test_no_number_is_masked(self):
        source = self.source([1, np.nan])
        torch.testing.assert_close(encoded(a_model(SERIES), source), encoded(a_model(SERIES), self.source([1])))
        assert source.masked == 1


class TestTensors:
    def test_are_what_arrays_are(self):
        model, values = a_model(IMAGE), np.random.default_rng(0).normal(size=(20, 12, 2))
        values[3, 4] = 1e300
        source = Source.of(torch.from_numpy(values))
        assert torch.equal(encoded(model, source), encoded(model, Source.of(values)))
        assert source.masked == 1

    def test_of_complex_numbers(self):
        found = refusal(a_model(IMAGE), Source.of(torch.zeros(20, 12, 2, dtype=torch.complex64)))
        assert "must be numbers; got torch.complex64" in found


class TestRows:
    def test_more_than_were_said_are_noticed_by_the_last_part(self):
        source = Source((20, 12, 2), lambda: (np.zeros((6, 12, 2)) for _ in range(4)), name="long")
        for part in (source, source.part(8, 20)):
            with pytest.raises(DataError, match=r"long: it said \d+ rows, but gives more: row 20 came"):
                list(part.read())
        assert sum(len(values) for _, values, _ in source.part(0, 8).read()) == 8

    def test_a_part_of_a_part_stays_within_it(self):
        with pytest.raises(DataError, match="rows 5 to 20 are not within this source's"):
            Source.of(np.zeros((30, 2)), rows=(0, 10)).part(5, 20)

    def test_a_run_that_is_no_array(self):
        with pytest.raises(DataError, match="the run at row 0: wanted values of shape"):
            list(Source((4, 2), lambda: iter([1.0])).part(0, 2).read())


def test_an_array_is_let_go_with_its_source():
    """No cycle: an unpacked file on disk goes at once, not when memory is looked through."""
    array = np.zeros((4, 2)).view(type("Seen", (np.ndarray,), {}))
    seen = weakref.ref(array)
    source = Source.of(array)
    list(source.read())
    gc.disable()
    try:
        del array, source
        assert seen() is None
    finally:
        gc.enable()


class TestDamage:
    """In the middle of a file whose head says that all is well."""

    def test_of_parquet(self, tmp_path):
        path = tmp_path / "wave.parquet"
        draw = np.random.default_rng(0)
        pq.write_table(pa.table({"a": draw.normal(size=9000), "b": draw.normal(size=9000)}), path, row_group_size=3000)
        whole = path.read_bytes()
        # A page's header, not its numbers, of which any are numbers.
        page = pq.ParquetFile(path).metadata.row_group(1).column(0)
        start = page.dictionary_page_offset or page.data_page_offset
        path.write_bytes(whole[:start] + b"\xff" * 30 + whole[start + 30 :])
        self.check(open_source(path), path)

    def test_of_zarr(self, tmp_path):
        path = tmp_path / "wave.zarr"
        zarr.create_array(path, data=np.random.default_rng(0).normal(size=(90, 2)), chunks=(30, 2))
        (chunk,) = [p for p in path.rglob("*") if p.is_file() and p.parent.name == "1"]
        chunk.write_bytes(b"nothing")
        self.check(open_source(path), path)
        (path / "zarr.json").write_text("{")
        with pytest.raises(DataError, match=r"wave\.zarr' cannot be read"):
            open_source(path)

    def check(self, source, path):
        with pytest.raises(DataError, match=rf"'.*{path.name}', rows \d+ to \d+, cannot be read; the file is damaged"):
            list(source.read())

    def test_is_one_row_of_a_table(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        zarr.create_array("good.zarr", data=np.ones((20, 12, 2), np.float32), chunks=(5, 12, 2))
        zarr.create_array("bad.zarr", data=np.ones((20, 12, 2), np.float32), chunks=(5, 12, 2))
        next(p for p in (tmp_path / "bad.zarr").rglob("*") if p.is_file() and p.name != "zarr.json").write_bytes(b"no")
        (tmp_path / "t.csv").write_text("scene\nbad.zarr\ngood.zarr\n")
        bad, good = predict(Predictor(a_model(IMAGE).float()), "t.csv")
        assert "t.csv, row 1, column 'scene': 'bad.zarr', rows 0 to" in bad["error"] or "bad.zarr" in bad["error"]
        assert good["label"] in ("x", "y")


def test_a_full_disk_is_not_a_damaged_tiff(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((64, 64), np.uint8), compression="zlib")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imread", full)
    with pytest.raises(DataError, match=r"s\.tif' cannot be read: No space left on device"):
        open_source(tmp_path / "s.tif")


def test_parquet_is_decoded_once_a_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("perceivers.data.sources.PARQUET_ROWS", 100)
    values = np.random.default_rng(0).normal(size=(1000, 2))
    pq.write_table(pa.table({"a": values[:, 0], "b": values[:, 1]}), tmp_path / "t.parquet", row_group_size=400)
    source = open_source(tmp_path / "t.parquet")
    array, _ = source._array
    begun = []
    columns = array._array
    begin = columns._begin
    monkeypatch.setattr(columns, "_begin", lambda row: begun.append(row) or begin(row))
    for rows in ((0, 1000), (350, 777), (999, 1000)):
        begun.clear()
        part = Source.of(array, rows=rows, run_rows=37)
        found = np.concatenate([run.numpy() for _, run, _ in part.read()])
        np.testing.assert_array_equal(found, values[rows[0] : rows[1]].astype(np.float32))
        assert begun == [rows[0]]


class TestPredictor:
    def test_samples_hold_sources_and_paths(self, tmp_path):
        predictor, scene = Predictor(a_model(IMAGE).float()), np.random.default_rng(0).normal(size=(20, 12, 2))
        np.save(tmp_path / "scene.npy", scene.astype(np.float32))
        wanted = predictor({"scene": scene})
        for value in (Source.of(scene), tmp_path / "scene.npy", str(tmp_path / "scene.npy")):
            found = predictor({"scene": value})
            assert found["label_probability"] == pytest.approx(wanted["label_probability"], rel=1e-5)
        assert [row.keys() for row in predictor.answers([{"scene": scene}, {"scene": Source.of(scene)}])] == [
            wanted.keys()
        ] * 2

    def test_progress_is_of_its_own_table(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.save("scene.npy", np.zeros((20, 12, 2), np.float32))
        (tmp_path / "t.csv").write_text("scene\nscene.npy\n")
        predictor, told = Predictor(a_model(IMAGE).float()), []
        predict(predictor, "t.csv", advance=lambda *said: told.append(said))
        assert told[-1] == ("predicting", 1, 1)
        count = len(told)
        predictor.record({"scene": "scene.npy"}, "line 1")
        assert len(told) == count
