"""`video`: arrays and files, cut and resized, as pixels or patches."""

import media
import numpy as np
import pytest
import torch

from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs.decode_video import video_header
from perceivers.inputs.lift import Pixels
from perceivers.inputs.video import VideoInput
from perceivers.models.build import build
from perceivers.models.plan import plan
from perceivers.nn.lifted import AxisTables
from perceivers.nn.stem import space_to_depth
from perceivers.positions import fourier_features, linear_positions

RANDOM = np.random.default_rng(0)
KNOWN = {"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}
VIDEO = VideoInput(size=(4, 6, 8))
CLIP = RANDOM.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)


def smooth(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames without fine detail, which a file keeps; each has a brightness of its own."""
    bright = 20 + 200 * np.arange(frames) / max(frames - 1, 1)
    return np.broadcast_to(bright[:, None, None, None], (frames, height, width, 3)).astype(np.uint8)


def test_all_ways_to_give_an_array(tmp_path):
    np.save(tmp_path / "x.npy", CLIP)
    for value in (CLIP, CLIP.tolist(), tmp_path / "x.npy", str(tmp_path / "x.npy"), {"path": str(tmp_path / "x.npy")}):
        sample = VIDEO.parse(value)
        np.testing.assert_array_equal(sample.values, CLIP)
        assert sample.mask is None
    assert VIDEO.parse(CLIP).values.dtype == np.uint8
    assert VIDEO.parse(CLIP.astype(np.float64)).values.dtype == np.float32
    assert VIDEO.with_changes(channels=1).parse(CLIP[..., 0]).values.shape == (4, 6, 8, 1)


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi"])
def test_files(form, tmp_path):
    frames = smooth(5)
    path = tmp_path / f"clip.{form}"
    path.write_bytes(media.mp4_bytes(frames, form=form))
    for value in (path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}):
        sample = VideoInput(size=(5, 32, 48)).parse(value)
        assert sample.values.dtype == np.uint8
        # Colours go through a conversion and back.
        np.testing.assert_allclose(sample.values.astype(float), frames, atol=4)
    grey = VideoInput(size=(5, 32, 48), channels=1).parse(path).values
    np.testing.assert_allclose(grey[..., 0].astype(float), frames[..., 0], atol=4)
    assert video_header(path) == (5, 32, 48)


def test_a_rate_reads_what_a_file_shows_by_time():
    slow, kind = media.mp4_bytes(smooth(4), rate=5), VideoInput(size=(8, 32, 48), rate=10)
    shown = kind.parse(slow).values.astype(float)
    np.testing.assert_allclose(shown, np.repeat(smooth(4), 2, axis=0), atol=4)
    assert kind.with_changes(size=(10, 32, 48)).parse(slow).padding, "shown for 0.8 s"
    with pytest.raises(DataError, match=r"has more than 6 frames, but the input takes 6\. Set overflow: truncate on"):
        kind.with_changes(size=(6, 32, 48)).parse(slow)
    first = kind.with_changes(size=(6, 32, 48), overflow="truncate").parse(slow).values.astype(float)
    np.testing.assert_allclose(first, shown[:6], atol=4)
    with pytest.raises(ValueError, match="so overflow: spread cannot be"):
        VideoInput(size=(8, 32, 48), rate=10, overflow="spread")


@pytest.mark.parametrize(
    ("overflow", "wanted"), [("truncate", [0, 1, 2]), ("middle", [3, 4, 5]), ("spread", [0, 4, 8])]
)
def test_a_longer_video_is_cut_where_the_input_says(overflow, wanted):
    frames = smooth(9)
    kind = VideoInput(size=(3, 32, 48), overflow=overflow)
    np.testing.assert_array_equal(kind.parse(frames).values, frames[wanted])
    np.testing.assert_allclose(kind.parse(media.mp4_bytes(frames)).values.astype(float), frames[wanted], atol=4)


def test_a_shorter_video_is_masked_at_its_end():
    clip = CLIP[:3].astype(np.float32)
    clip[1, 2, 3, 0] = np.nan
    sample = VIDEO.parse(clip)
    assert sample.values.shape == (4, 6, 8, 3)
    assert (sample.padding, sample.masked) == (48, 1)
    assert not sample.mask[3].any()
    assert sample.mask[:3].sum() == 3 * 48 - 1
    patches = VIDEO.with_changes(lift={"kind": "patches", "size": [2, 3, 4]}, **KNOWN)
    lifted = patches.build()(patches.collate([sample]))
    assert lifted.mask.tolist() == [[False, True, True, True, False, False, False, False]]


def test_resizing_is_that_of_images_frame_by_frame():
    from perceivers.inputs.image import ImageInput

    for how in ("crop", "stretch"):
        frames = VideoInput(size=(4, 3, 5), resize=how).parse(CLIP).values
        image = ImageInput(size=(3, 5), resize=how)
        for frame, wanted in zip(frames, CLIP, strict=True):
            np.testing.assert_array_equal(frame, image.parse(wanted).values)
    file = media.mp4_bytes(smooth(4))
    assert VideoInput(size=(4, 8, 8), resize="crop").parse(file).values.shape == (4, 8, 8, 3)


def test_patches_then_position_as_the_released_model_has_them():
    """Patches 1×4×4 of 16×224×224 in [0, 1]: 50,176 elements of 48 + 195 channels [models.md §4.1]."""
    position = {"kind": "fourier", "bands": 32, "resolution": [16, 56, 56]}
    patches = {"kind": "patches", "size": [1, 4, 4]}
    assert VideoInput(size=(16, 224, 224), lift=patches).elements() == 50_176
    kind = VideoInput(size=(4, 8, 12), lift=patches, position=position, **KNOWN)
    clip = torch.from_numpy(RANDOM.integers(0, 256, (1, 4, 8, 12, 3), dtype=np.uint8))
    lifted = kind.build()(Elements(clip.flatten(1, 3), grid=(4, 8, 12)))
    assert isinstance(lifted.position, AxisTables), "tables an axis, so that the factorised path applies"
    joined = lifted.joined()
    assert joined.shape == (1, 24, 243)
    torch.testing.assert_close(joined[..., :48], space_to_depth(clip / 255, (1, 4, 4)).flatten(1, 3))
    wanted = fourier_features(linear_positions((4, 2, 3), torch.float64), 32, (16, 56, 56))
    torch.testing.assert_close(joined[0, :, 48:], wanted.float())


def test_pixels_with_a_stride():
    x = torch.randn(2, 4, 6, 8, 3)
    mask = torch.rand(2, 4, 6, 8) < 0.5
    lift = Pixels(stride=(2, 3, 4)).build(3, 3)
    content, real = lift(x, mask)
    assert lift.cells((4, 6, 8)) == (2, 2, 2)
    assert lift.cells((5, 7, 9)) == (3, 3, 3)
    assert torch.equal(content, x[:, ::2, ::3, ::4].flatten(1, 3))
    assert torch.equal(real, mask[:, ::2, ::3, ::4].flatten(1))
    with pytest.raises(SpecError, match=r"stride \(2, 2\) has 2 axes, the input has 3"):
        Pixels(stride=(2, 2)).build(3, 3)


@pytest.mark.parametrize(
    "position",
    [{"kind": "learned", "channels": 7}, {"kind": "none"}, {"kind": "learned", "channels": 3, "join": "add"}],
)
def test_other_positions(position):
    module = VIDEO.with_changes(position=position, **KNOWN).build()
    joined = module(Elements(torch.zeros(2, 192, 3), grid=(4, 6, 8))).joined()
    assert joined.shape == (2, 192, module.channels)


def test_statistics_come_from_training_unless_given():
    fitted = VIDEO.fit([VIDEO.parse(CLIP), VIDEO.parse(CLIP[:2])])
    everything = np.concatenate([CLIP, CLIP[:2]]).reshape(-1, 3).astype(float)
    np.testing.assert_allclose(fitted.mean, everything.mean(0))
    np.testing.assert_allclose(fitted.std, everything.std(0))
    with pytest.raises(SpecError, match=r"video: mean and std are not known yet.*0–255 for 8-bit"):
        VIDEO.build()


def test_a_plan_counts_what_is_built():
    lift = {"kind": "patches", "size": [2, 4, 4], "channels": 6}
    spec = {
        "inputs": {"clip": {"kind": "video", "size": [8, 32, 32], "lift": lift}},
        "latents": {"count": 4, "channels": 16},
        "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
    }
    cost = plan(spec)
    part = {p.name: p for p in cost.parts}["input clip"]
    assert cost.elements == {"clip": 256}
    assert part.flops == 2 * 256 * 96 * 6
    model = build({**spec, "inputs": {"clip": {**spec["inputs"]["clip"], **KNOWN}}})
    assert sum(p.numel() for p in model.parameters()) == cost.parameters
    assert model({"clip": np.zeros((8, 32, 32, 3), np.uint8)})["label"].shape == (1, 2)
