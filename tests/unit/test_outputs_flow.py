"""Flow as a target: files of data sets, what is unknown in them, two columns, and the scores."""

import struct
import zlib

import numpy as np
import pytest
import torch

from perceivers.data.files import read_table
from perceivers.data.reader import Reader
from perceivers.data.table import Table
from perceivers.errors import DataError
from perceivers.inputs.image_pair import ImagePairInput
from perceivers.outputs.flow import FlowHead, FlowOutput
from perceivers.outputs.flow_files import read_flow

FLOW = np.array([[[1.5, -2.25], [0, 0], [-300.5, 7]], [[0.25, 1], [64, -64], [3, 4]]], np.float32)


def flo_bytes(flow: np.ndarray) -> bytes:
    return struct.pack("<fii", 202021.25, flow.shape[1], flow.shape[0]) + flow.astype("<f4").tobytes()


def png_bytes(pixels: np.ndarray, bits: int = 16) -> bytes:
    """(H, W, 3) whole numbers as an RGB PNG."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        found += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return found


def kitti_bytes(flow: np.ndarray) -> bytes:
    known = np.isfinite(flow).all(-1)
    whole = np.where(known[..., None], np.rint(np.nan_to_num(flow) * 64) + 2**15, 0)
    return png_bytes(np.concatenate([whole, known[..., None]], axis=-1).astype(np.uint16))


class TestFiles:
    def test_flo(self):
        np.testing.assert_array_equal(read_flow(flo_bytes(FLOW)), FLOW)
        unknown = FLOW.copy()
        unknown[1, 2, 0] = 1666666752.0
        found = read_flow(flo_bytes(unknown))
        assert np.isnan(found[1, 2]).all(), "Middlebury's mark of unknown flow"
        np.testing.assert_array_equal(found[0], FLOW[0])

    def test_kitti(self):
        flow = FLOW.copy()
        flow[0, 1] = np.nan
        np.testing.assert_array_equal(read_flow(kitti_bytes(flow)), flow)

    def test_npy_and_paths(self, tmp_path):
        np.save(tmp_path / "a.npy", FLOW)
        (tmp_path / "a.flo").write_bytes(flo_bytes(FLOW))
        (tmp_path / "a.png").write_bytes(kitti_bytes(FLOW))
        for name in ("a.npy", "a.flo", "a.png"):
            np.testing.assert_array_equal(read_flow(tmp_path / name), FLOW)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (flo_bytes(FLOW)[:-1], "truncated or damaged: 3×2 pixels do not make 59 bytes"),
            (flo_bytes(FLOW)[:8], "truncated: it ends inside its header"),
            (struct.pack("<fii", 202021.25, -1, 2), "truncated or damaged"),
            (kitti_bytes(FLOW)[:60], "truncated or damaged"),
            (kitti_bytes(FLOW)[:20], "truncated: it ends inside its header"),
            (png_bytes(np.zeros((2, 2, 3), np.uint8), bits=8), "three 16-bit channels; this one has 8 bits"),
            (b"\x93NUMPYxx", "cannot be read as .npy"),
            (b"GIF89a", "is no flow: wanted .flo"),
        ],
    )
    def test_what_is_none(self, data, said):
        with pytest.raises(DataError, match=said.replace(".", r"\.")):
            read_flow(data)

    def test_a_giant_is_refused_before_it_is_decoded(self):
        data = bytearray(kitti_bytes(FLOW))
        struct.pack_into(">II", data, 16, 100_000, 100_000)
        with pytest.raises(DataError, match="has 10,000,000,000 pixels"):
            read_flow(bytes(data))

    def test_a_missing_file(self):
        with pytest.raises(DataError, match=r"flow file 'gone\.flo' does not exist"):
            read_flow("gone.flo")


class TestColumns:
    def test_paths_are_relative_to_their_table(self, tmp_path):
        (tmp_path / "deep").mkdir()
        for name in ("there", "back"):
            (tmp_path / "deep" / f"{name}.flo").write_bytes(flo_bytes(FLOW if name == "there" else -FLOW))
        (tmp_path / "deep" / "t.csv").write_text("flow,back\nthere.flo,back.flo\nthere.flo,\n,back.flo\n")
        table = read_table(tmp_path / "deep" / "t.csv")
        one = Reader({}, {"flow": FlowOutput()})
        np.testing.assert_array_equal(one.target(table, 0, "flow"), FLOW)
        kind = FlowOutput(backward="back")
        both = Reader({}, {"flow": kind})
        targets = [both.target(table, row, "flow") for row in range(3)]
        np.testing.assert_array_equal(targets[0], np.concatenate([FLOW, -FLOW], axis=-1))
        assert np.isnan(targets[1][..., 2:]).all()
        assert targets[2] is None
        collated = kind.collate(targets)
        assert collated.shape == (3, 2, 3, 2)
        assert torch.equal(collated[0], torch.from_numpy(FLOW))
        assert collated[2].isnan().all()

    def test_one_cell_is_not_two(self):
        with pytest.raises(DataError, match=r"wanted two cells.*'back'"):
            FlowOutput(backward="back").parse(FLOW)
        with pytest.raises(DataError, match="wanted one"):
            FlowOutput(backward="back").parse([FLOW, FLOW[:1]])


class TestSizes:
    """A flow that is not of its images' pixels is the fault of its row."""

    @pytest.mark.parametrize(("overflow", "images"), [("error", (2, 3)), ("middle", (4, 5))])
    def test_a_flow_of_each_pixel(self, overflow, images):
        frames = [np.zeros((*images, 3), np.uint8)] * 3
        flows = [np.zeros((*images, 2)), np.zeros((2, 2, 2)), None]
        table = Table({"first": frames, "second": frames, "flow": flows}, "t")
        reader = Reader({"pair": ImagePairInput(size=(2, 3), overflow=overflow)}, {"flow": FlowOutput()})
        assert reader.errors(table, 0) == reader.errors(table, 2) == []
        (error,) = reader.errors(table, 1)
        said = f"row 2, column 'flow': the flow is 2×2, but the images of 'pair' are {images[0]}×{images[1]}"
        assert said in str(error)


def test_scores_by_hand():
    head = FlowHead.__new__(FlowHead)
    target = torch.tensor([[[[0.0, 0.0], [100.0, 0.0], [10.0, 0.0], [float("nan"), 0.0]]]])
    # Errors 4 (of 0: wrong), 4 (of 100: 4 %, right), 2 (below 3, right) and one that is not known.
    prediction = torch.tensor([[[[0.0, 4.0], [104.0, 0.0], [12.0, 0.0], [9.0, 9.0]]]])
    metrics = head.metrics()
    head.measure(metrics, prediction, target)
    assert {name: float(metric.compute()) for name, metric in metrics.items()} == {
        "epe": pytest.approx(10 / 3),
        "fl_all": pytest.approx(1 / 3),
    }
