"""Log-mel spectra of sound: how much there is of each frequency, frame by frame [P1 §4.2 reads them from AudioSet]."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from perceivers.errors import SpecError

# What is added before the logarithm: a millionth of white noise as loud as the input on average.
FLOOR = 1e-6

# How many, and the most cells of one.
Runs = tuple[int, int]


def mel_filters(rate: float, bins: int, window: int) -> Float[Tensor, "frequencies bins"]:
    """Triangles on the mel scale 2595·log10(1 + f/700) from 0 to `rate`/2 Hz, each with the sum 1; float64.

    A column weighs the window//2 + 1 frequencies of a spectrum. Raises `SpecError` when a triangle lies between two of
    them.
    """
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    # On the CPU whatever the default device: it is looked at below.
    mels = torch.linspace(0, highest, bins + 2, dtype=torch.float64, device="cpu")
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64, device="cpu")[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    sums = filters.sum(0)
    if empty := int((sums == 0).sum()):
        raise SpecError(
            f"{empty} of {bins} mel bins hold no frequency of windows of {window} samples at {rate:g} Hz; "
            "take fewer bins or a longer window."
        )
    return filters / sums


def kept_of_spectrum(
    spectra: Float[Tensor, "B frames bins C"], times: Runs, frequencies: Runs, dropout: float
) -> Bool[Tensor, "B frames bins"]:
    """Which values of training spectra are left by SpecAugment (Park et al. 2019) and by dropout: True = left.

    times, frequencies: (count, longest): so many runs of frames, or of bins, each of a length drawn evenly from 0 to
    `longest`, at a place drawn evenly, are gone; they may overlap. dropout: the chance that a value is gone by itself.
    Draws are torch's, from the generator of the spectra's device.
    """
    batch, frames, bins, _ = spectra.shape
    kept = torch.rand(batch, frames, bins, device=spectra.device) >= dropout
    kept &= ~_in_runs(batch, frames, times, spectra.device)[:, :, None]
    return kept & ~_in_runs(batch, bins, frequencies, spectra.device)[:, None, :]


def _in_runs(batch: int, cells: int, runs: Runs, device: torch.device) -> Bool[Tensor, "B cells"]:
    count, longest = runs[0], min(runs[1], cells)
    lengths = torch.randint(0, longest + 1, (batch, count, 1), device=device)
    starts = (torch.rand(batch, count, 1, device=device) * (cells - lengths + 1)).floor()
    place = torch.arange(cells, device=device)
    return ((place >= starts) & (place < starts + lengths)).any(1)


class LogMelSpectrum(nn.Module):
    """log10 of the power in each mel bin: (B, T, C) → (B, ⌈T/hop⌉, bins, C). White noise of unit power is about 0.

    rate: samples a second. window: samples of a frame, weighed by a Hann window; its middle is that of the frame's own
    `hop` samples, and beyond the ends are zeros. No parameters.
    """

    weights: Tensor
    filters: Tensor

    def __init__(self, rate: float, bins: int, window: int, hop: int) -> None:
        super().__init__()
        self.bins, self.window, self.hop = bins, window, hop
        weights = torch.hann_window(window, dtype=torch.float64, device="cpu")
        # Of unit power, so that a louder spectrum is a louder sound and not a longer window.
        weights = weights / weights.square().sum().sqrt()
        for name, values in (("weights", weights), ("filters", mel_filters(rate, bins, window))):
            self.register_buffer(name, torch.tensor(values.tolist(), dtype=torch.float32), persistent=False)

    def flops(self, steps: int) -> int:
        """Multiplications and additions for `steps` time steps of one channel: 5·W·log2 W a transform, the filters."""
        frames = -(-steps // self.hop)
        transform = 5 * self.window * max(math.ceil(math.log2(self.window)), 1)
        return frames * (transform + 2 * self.filters.numel())

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B frames bins C"]:
        """In float32 at least: there is no transform of half numbers."""
        steps, wide = x.shape[1], x.to(torch.promote_types(x.dtype, torch.float32))
        before = (self.window - self.hop) // 2
        after = self.window - self.hop - before + (-steps) % self.hop
        framed = F.pad(wide, (0, 0, before, after)).unfold(1, self.window, self.hop)
        power = torch.fft.rfft(framed * self.weights.to(wide.dtype)).abs().square()
        mels = power @ self.filters.to(wide.dtype)
        return (mels + FLOOR).log10().movedim(2, 3).to(x.dtype)
