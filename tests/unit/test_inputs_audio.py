"""`audio`: arrays, WAV files and what soundfile reads, patches and spectra."""

import io

import media
import numpy as np
import pytest
import torch

from perceivers import LiveEncoder
from perceivers.elements import Elements
from perceivers.errors import SpecError
from perceivers.inputs.audio import AudioInput
from perceivers.inputs.decode_audio import sound_header
from perceivers.models.build import build
from perceivers.models.plan import plan
from perceivers.positions import fourier_features, linear_positions

KNOWN = {"mean": (0.0,), "std": (1.0,)}
SOUND = AudioInput(samples=64, rate=8000)
WAVE = np.sin(np.arange(64) / 5).astype(np.float32) * 0.9


def test_all_ways_to_give_a_sound(tmp_path):
    np.save(tmp_path / "x.npy", WAVE)
    (tmp_path / "x.wav").write_bytes(media.wav_bytes(WAVE, bits=32))
    for value in (
        WAVE,
        WAVE[:, None],
        WAVE.astype(np.float64),
        WAVE.tolist(),
        {"values": WAVE},
        {"values": WAVE, "rate": 8000},
        {"array": WAVE, "sampling_rate": 8000, "path": None},
        tmp_path / "x.npy",
        str(tmp_path / "x.wav"),
        {"bytes": (tmp_path / "x.wav").read_bytes(), "path": "gone.wav"},
        {"bytes": None, "path": str(tmp_path / "x.wav")},
        media.float_wav_bytes(WAVE),
    ):
        sample = SOUND.parse(value)
        assert sample.values.dtype == np.float32
        assert sample.values.shape == (64, 1)
        assert sample.mask is None
        np.testing.assert_allclose(sample.values[:, 0], WAVE, atol=1e-7)


@pytest.mark.parametrize(("bits", "step"), [(8, 2**-7), (16, 2**-15), (24, 2**-23), (32, 2**-23)])
def test_files_of_all_widths(bits, step):
    two = np.stack([WAVE, -WAVE], axis=1)
    sample = SOUND.with_changes(channels=2).parse(media.wav_bytes(two, bits=bits))
    np.testing.assert_allclose(sample.values, two, atol=step)


def test_full_scale_is_one():
    numbers = np.array([-(2**15), 0, 2**14], np.int16)
    assert AudioInput(samples=3, rate=1, lift={"kind": "samples"}).parse(numbers).values.ravel().tolist() == [
        -1,
        0,
        0.5,
    ]
    wide = numbers.astype(np.int32) * 2**16
    assert AudioInput(samples=3, rate=1, lift={"kind": "samples"}).parse(wide).values.ravel().tolist() == [-1, 0, 0.5]
    bytes_ = np.array([0, 128, 192], np.uint8)
    assert AudioInput(samples=3, rate=1, lift={"kind": "samples"}).parse(bytes_).values.ravel().tolist() == [-1, 0, 0.5]


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3", "AIFF"])
def test_what_soundfile_reads(form):
    import soundfile

    buffer, tone = io.BytesIO(), 0.5 * np.sin(np.arange(16_000) / 20)
    soundfile.write(buffer, tone, 16_000, format=form)
    kind = AudioInput(samples=16_000, rate=16_000, overflow="truncate")
    found = kind.parse(buffer.getvalue())
    inner = slice(4000, 12_000)
    # Formats with loss shift little and change little of a plain tone.
    assert np.corrcoef(found.values[inner, 0], tone[inner])[0, 1] > 0.98
    count, rate, channels = sound_header(buffer.getvalue())
    assert (rate, channels) == (16_000, 1)
    assert abs(count - 16_000) <= 1200


def test_a_short_sound_is_masked_at_its_end_and_so_are_its_patches():
    values = WAVE[:40].copy()
    values[3] = np.nan
    sample = SOUND.parse(values)
    assert sample.mask.nonzero()[0].tolist() == [n for n in range(40) if n != 3]
    assert (sample.padding, sample.masked) == (24, 1)
    lifted = SOUND.with_changes(**KNOWN).build()(SOUND.collate([sample]))
    assert lifted.mask.tolist() == [[False, True, False, False]]


def test_a_longer_sound_is_cut_where_the_input_says():
    long, file = np.arange(100) / 100, media.wav_bytes(np.arange(100) / 100, bits=32)
    for value in (long, file):
        first = SOUND.with_changes(overflow="truncate").parse(value)
        middle = SOUND.with_changes(overflow="middle").parse(value)
        np.testing.assert_allclose(first.values[:, 0], long[:64], atol=1e-6)
        np.testing.assert_allclose(middle.values[:, 0], long[18:82], atol=1e-6)


def test_resampling_where_the_input_says():
    seconds = np.arange(16_000) / 16_000
    kind = AudioInput(samples=8000, rate=8000, resample=True)
    for value in (
        {"values": np.sin(2 * np.pi * 440 * seconds), "rate": 16_000},
        media.wav_bytes(np.sin(2 * np.pi * 440 * seconds), 16_000),
    ):
        sample = kind.parse(value)
        assert sample.values.shape == (8000, 1)
        wanted = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
        np.testing.assert_allclose(sample.values[200:-200, 0], wanted[200:-200], atol=1e-3)
    up = AudioInput(samples=1000, rate=11_025, resample=True, overflow="truncate").parse(media.wav_bytes(WAVE, 8000))
    assert up.padding == 1000 - 88


def test_channels_are_mixed_where_the_input_says():
    two = np.stack([WAVE, np.zeros(64)], axis=1)
    np.testing.assert_allclose(SOUND.with_changes(mix=True).parse(two).values[:, 0], WAVE / 2, atol=1e-7)
    with pytest.raises(ValueError, match="mix averages all channels into one, but channels is 2"):
        AudioInput(samples=64, rate=8000, channels=2, mix=True)


def test_patches_then_position_as_the_released_model_has_them():
    """30,720 samples in patches of 16 are 1,920 elements of 16 + 385 channels [models.md §4.1]."""
    position = {"kind": "fourier", "bands": 192, "resolution": [30_720]}
    kind = AudioInput(samples=30_720, rate=48_000, position=position, **KNOWN)
    module = kind.build()
    values = torch.randn(1, 30_720, 1)
    joined = module(Elements(values, grid=(30_720,))).joined()
    assert joined.shape == (1, 1920, 401)
    assert kind.elements() == 1920
    assert torch.equal(joined[0, :, :16], values.reshape(1920, 16))
    wanted = fourier_features(linear_positions((1920,), torch.float64), 192, (30_720,))
    torch.testing.assert_close(joined[0, :, 16:], wanted.float())


def test_a_spectrum_is_a_grid_of_frames_and_bins():
    lift = {"kind": "log_mel", "bins": 8, "window": 256, "hop": 128}
    kind = AudioInput(samples=1000, rate=8000, lift=lift, **KNOWN)
    sample = kind.parse(np.zeros(300))
    lifted = kind.build()(kind.collate([sample]))
    assert lifted.content.shape == (1, 64, 1)
    assert lifted.position.grid == (8, 8)
    assert kind.elements() == 64
    # 300 samples reach into the third hop.
    assert lifted.mask[0].tolist() == [True] * 24 + [False] * 40


def test_statistics_come_from_training_unless_given():
    samples = [SOUND.parse(WAVE), SOUND.parse(WAVE[:30] + 0.05)]
    real = np.concatenate([WAVE, WAVE[:30] + 0.05]).astype(float)
    fitted = SOUND.fit(samples)
    np.testing.assert_allclose((fitted.mean[0], fitted.std[0]), (real.mean(), real.std()), rtol=1e-5)
    with pytest.raises(SpecError, match=r"audio: mean and std are not known yet.*full scale is −1 to 1"):
        SOUND.build()


def test_a_live_sound():
    spec = {
        "inputs": {"sound": {"kind": "audio", "samples": 64, "rate": 8000, **KNOWN}},
        "latents": {"count": 4, "channels": 16},
        "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
    }
    model = build(spec, seed=0)
    live = LiveEncoder(model, "sound", value=WAVE[:32], block=1)
    live.replace(20, np.array([2**14] * 30, np.int16))
    live.delete(0, 3)
    whole = np.full(64, np.nan)
    whole[3:32], whole[20:50] = WAVE[3:32], 0.5
    torch.testing.assert_close(live.latents(), model.encode({"sound": whole}), atol=1e-5, rtol=0)


def test_settings_that_cannot_be():
    with pytest.raises(SpecError, match=r"patches of \(16,\) do not tile a grid of \(60,\)"):
        AudioInput(samples=60, rate=8000, **KNOWN).build()
    with pytest.raises(ValueError, match="window is 64, shorter than the hop of 128"):
        AudioInput(samples=60, rate=8000, lift={"kind": "log_mel", "window": 64, "hop": 128})
    with pytest.raises(SpecError, match="mel bins hold no frequency of windows of 128 samples at 8000 Hz"):
        AudioInput(samples=256, rate=8000, lift={"kind": "log_mel", "window": 128, "hop": 128}, **KNOWN).build()


@pytest.mark.parametrize(
    "lift", [{"kind": "patches", "size": [16]}, {"kind": "log_mel", "bins": 8, "window": 256, "hop": 128}]
)
def test_a_plan_counts_what_is_built(lift):
    spec = {
        "inputs": {"sound": {"kind": "audio", "samples": 4096, "rate": 8000, "lift": lift}},
        "latents": {"count": 4, "channels": 16},
        "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
    }
    cost = plan(spec)
    part = {p.name: p for p in cost.parts}["input sound"]
    assert cost.elements == {"sound": 256}
    assert (part.flops > 0) == (lift["kind"] == "log_mel")
    known = {**spec, "inputs": {"sound": {**spec["inputs"]["sound"], **KNOWN}}}
    model = build(known)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters
    assert model({"sound": np.zeros(4096)})["label"].shape == (1, 2)
