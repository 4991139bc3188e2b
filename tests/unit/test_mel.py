"""Log-mel spectra: filters, frames and loudness."""

import math

import pytest
import torch

from perceivers.errors import SpecError
from perceivers.nn.mel import FLOOR, LogMelSpectrum, mel_filters


def test_filters_are_triangles_that_meet():
    filters = mel_filters(16_000, 20, 1024)
    assert filters.shape == (513, 20)
    torch.testing.assert_close(filters.sum(0), torch.ones(20, dtype=torch.float64))
    peaks = filters.argmax(0)
    assert (peaks.diff() > 0).all()
    assert (peaks.diff().diff() >= -1).all(), "farther and farther apart"
    assert not filters[:, 0][peaks[1] + 1 :].any(), "a triangle ends where the next has its peak"


def test_bins_without_a_frequency_are_refused():
    with pytest.raises(SpecError, match=r"of 200 mel bins hold no frequency of windows of 256 samples at 16000 Hz"):
        mel_filters(16_000, 200, 256)


def test_white_noise_of_unit_power_is_zero():
    noise = torch.randn(4, 40_000, 1, generator=torch.Generator().manual_seed(0))
    found = LogMelSpectrum(16_000, 24, 1024, 512)(noise)
    assert found.shape == (4, 79, 24, 1)
    power = (10.0 ** found[:, 1:-1]).mean((0, 1, 3))
    torch.testing.assert_close(power, torch.ones(24), rtol=0.15, atol=0)


def test_silence_is_the_floor():
    found = LogMelSpectrum(8_000, 8, 256, 128)(torch.zeros(1, 1000, 2))
    torch.testing.assert_close(found, torch.full((1, 8, 8, 2), math.log10(FLOOR)))


@pytest.mark.parametrize("hertz", [200.0, 1000.0, 3000.0])
def test_a_tone_is_in_its_bin(hertz):
    steps = torch.arange(8000) / 8000
    spectrum = LogMelSpectrum(8_000, 24, 512, 256)
    found = spectrum(torch.sin(2 * math.pi * hertz * steps)[None, :, None])[0, 5:-5, :, 0]
    middles = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + 4000 / 700), 26)[1:-1] / 2595) - 1)
    nearest = (middles - hertz).abs().argmin()
    assert ((found.argmax(-1) - nearest).abs() <= 1).all()


def test_frames_lie_around_their_own_samples():
    """A click is in the frames whose windows hold it, and loudest in the one whose hop it lies in."""
    x = torch.zeros(1, 1024, 1)
    x[0, 5 * 64 + 20] = 1.0
    found = LogMelSpectrum(8_000, 4, 128, 64)(x)[0, :, :, 0].mean(-1)
    assert found.argmax() == 5
    assert (found > math.log10(FLOOR) + 1).nonzero().flatten().tolist() == [4, 5]


def test_half_numbers_are_transformed_as_floats():
    x = torch.randn(1, 600, 1)
    spectrum = LogMelSpectrum(8_000, 4, 128, 64)
    half = spectrum.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), LogMelSpectrum(8_000, 4, 128, 64)(x), rtol=0, atol=0.1)
