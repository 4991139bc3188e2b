"""SAME padding, space to depth, the debiased batch norm and the convolution stem."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from perceivers.errors import SpecError
from perceivers.nn.stem import ConvStem, DebiasedBatchNorm, same_padding, space_to_depth


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "wanted"),
    [(224, 7, 2, (2, 3)), (112, 3, 2, (0, 1)), (31, 7, 2, (3, 3)), (5, 1, 2, (0, 0)), (6, 3, 1, (1, 1))],
)
def test_same_padding_numbers(size, kernel, stride, wanted):
    assert same_padding(size, kernel, stride) == wanted


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4))
def test_same_padding_gives_a_cell_a_stride_and_no_more_than_needed(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    assert 0 <= after - before <= 1, "the odd one comes after"
    cells = math.ceil(size / stride)
    if before + after:
        assert (size + before + after - kernel) / stride + 1 == cells
    else:
        assert (size - kernel) // stride + 1 >= cells


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3), st.integers(1, 3))
def test_space_to_depth_by_indices(axes, channels):
    """Element (cell…) holds, in this order: place in the patch, first axis outermost, then the channel."""
    grid, patch = [n * p for n, p in axes], [p for _, p in axes]
    x = torch.arange(2 * math.prod(grid) * channels).reshape(2, *grid, channels)
    ours = space_to_depth(x, patch)
    assert ours.shape == (2, *[n for n, _ in axes], math.prod(patch) * channels)
    for cell in torch.cartesian_prod(*[torch.arange(n) for n, _ in axes]).reshape(-1, len(axes)).tolist():
        here = tuple(slice(c * p, (c + 1) * p) for c, p in zip(cell, patch, strict=True))
        assert torch.equal(ours[(0, *cell)], x[(0, *here)].flatten())


def test_batch_norm_by_formula_over_three_steps():
    norm = DebiasedBatchNorm(3).double()
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([1.0, 2.0, -0.5]))
        norm.offset.copy_(torch.tensor([0.0, 1.0, 3.0]))
    generator = torch.Generator().manual_seed(0)
    hidden_mean = hidden_variance = torch.zeros(3, dtype=torch.float64)
    for step in range(1, 4):
        x = torch.randn(4, 3, 5, 2, generator=generator, dtype=torch.float64) * step + step
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        hidden_mean, hidden_variance = 0.9 * hidden_mean + 0.1 * mean, 0.9 * hidden_variance + 0.1 * variance
        debias = 1 - 0.9**step
        normal = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        torch.testing.assert_close(norm(x), normal * norm.scale[:, None, None] + norm.offset[:, None, None])
        torch.testing.assert_close(norm.mean_average, hidden_mean / debias)
        torch.testing.assert_close(norm.variance_average, hidden_variance / debias)
        torch.testing.assert_close(norm.mean_hidden, hidden_mean)
        assert norm.count == step
    norm.eval()
    normal = (x - (hidden_mean / debias)[:, None, None]) / ((hidden_variance / debias)[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), normal * norm.scale[:, None, None] + norm.offset[:, None, None])
    assert norm.count == 3, "evaluation counts nothing"


def test_batch_norm_before_training_changes_almost_nothing_and_an_empty_batch_counts_nothing():
    norm = DebiasedBatchNorm(2).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(norm.eval()(x), x / math.sqrt(1 + 1e-5))
    assert norm.train()(x[:0]).shape == (0, 2, 4)
    assert norm.count == 0
    assert torch.equal(norm.mean_average, torch.zeros(2, dtype=torch.float64))


def test_batch_norm_sends_the_gradient_through_the_batch_statistics():
    norm = DebiasedBatchNorm(2).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: norm(x).square(), x)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 2), st.booleans())
def test_the_stem_says_its_grid(height, width, layers, pool):
    stem = ConvStem(2, 3, channels=4, layers=layers, pool=pool).eval()
    with torch.no_grad():
        out = stem(torch.zeros(1, height, width, 3))
    assert out.shape == (1, *stem.cells((height, width)), 4)
    side = 2 ** (layers * (2 if pool else 1))
    assert stem.cells((height, width)) == (math.ceil(height / side), math.ceil(width / side))


def test_the_published_stem_gives_56_by_56():
    assert ConvStem(2, 3).cells((224, 224)) == (56, 56)


def test_the_stem_by_its_parts():
    stem = ConvStem(1, 2, channels=3, kernel=5, stride=2).double().eval()
    x = torch.randn(2, 11, 2, dtype=torch.float64)
    y = F.conv1d(F.pad(x.movedim(-1, 1), (2, 2)), stem.convolutions[0].weight, stride=2)
    y = torch.relu(stem.norms[0](y))
    y = F.max_pool1d(F.pad(y, (0, 1), value=-math.inf), 3, 2)
    torch.testing.assert_close(stem(x), y.movedim(1, -1))
    assert stem.convolutions[0].bias is None


def padded(x: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T, C) with 7s behind its end, up to `length`, and the mask of what is real."""
    mask = (torch.arange(length) < x.shape[1]).expand(len(x), length)
    return F.pad(x, (0, 0, 0, length - x.shape[1]), value=7.0), mask


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", [True, False])
def test_padding_changes_nothing(training, pool):
    """Four series of 48 steps in a window of as many, of 96 or of 960: the same elements, averages and gradients."""
    x = torch.randn(4, 48, 2, dtype=torch.float64)
    found = []
    for length in (48, 96, 960):
        torch.manual_seed(0)
        stem = ConvStem(1, 2, channels=3, layers=2, pool=pool).double().train(training)
        with torch.no_grad():
            for norm in stem.norms:
                norm.offset.fill_(0.5)
        content = stem(*padded(x, length)) if length > 48 else stem(x)
        count = stem.cells([48])[0]
        assert not content[:, count:].any()
        content[:, :count].square().sum().backward()
        found.append([content[:, :count], *stem.buffers(), *(p.grad for p in stem.parameters())])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_batch_norm_over_the_real_cells_by_formula():
    norm = DebiasedBatchNorm(3).double()
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64) * 3 + 1
    mask = torch.rand(4, 5, 6) < 0.6
    real = x.movedim(1, -1)[mask]
    out = norm(x, mask).movedim(1, -1)[mask]
    mean, variance = real.mean(0), real.var(0, unbiased=False)
    torch.testing.assert_close(out, (real - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(norm.mean_average, mean)
    torch.testing.assert_close(norm.variance_average, variance)
    norm.eval()
    torch.testing.assert_close(norm(x, mask), norm(x))


def test_batch_norm_of_real_cells_sends_the_gradient_through_the_statistics():
    norm = DebiasedBatchNorm(2).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 4) < 0.7
    assert torch.autograd.gradcheck(lambda x: norm(x, mask).square(), x)


def test_batch_norm_of_half_precision_keeps_its_dtype():
    norm = DebiasedBatchNorm(2)
    out = norm(torch.randn(3, 2, 4).bfloat16(), torch.ones(3, 4, dtype=torch.bool))
    assert out.dtype == torch.bfloat16


def test_without_a_mask_batch_norm_is_torchs_to_the_last_bit():
    norm = DebiasedBatchNorm(3)
    x = torch.randn(4, 3, 5, 6)
    assert torch.equal(norm(x), F.batch_norm(x, None, None, norm.scale, norm.offset, training=True, eps=1e-5))


@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 8), st.booleans())
def test_the_padding_of_transformers_by_torchs_own_layers(height, width, kernel, pool):
    stem = ConvStem(2, 3, 4, kernel, pool=pool, padding="transformers").eval()
    x = torch.randn(2, height, width, 3)
    sides = ((kernel - 1) // 2, kernel // 2)
    wanted = F.conv2d(F.pad(x.movedim(-1, 1), (*sides, *sides)), stem.convolutions[0].weight, stride=2)
    wanted = (wanted / math.sqrt(1 + 1e-5)).relu()
    if pool and min(wanted.shape[2:]) >= 3:
        wanted = F.max_pool2d(wanted, 3, 2)
    elif pool:
        with pytest.raises(SpecError, match="no element"):
            stem.cells((height, width))
        return
    assert stem.cells((height, width)) == tuple(wanted.shape[2:])
    torch.testing.assert_close(stem(x).movedim(-1, 1), wanted)


def test_the_padding_of_transformers_loses_a_row_of_224():
    assert ConvStem(2, 3, 4, padding="transformers").cells((224, 224)) == (55, 55)
    assert ConvStem(2, 3, 4).cells((224, 224)) == (56, 56)


def test_the_padding_of_transformers_with_a_mask_is_that_of_cells_which_are_not_there():
    stem = ConvStem(2, 1, 4, padding="transformers").eval()
    x = torch.randn(1, 20, 12, 1)
    mask = torch.zeros(1, 20, 12, dtype=torch.bool)
    mask[:, :9] = True
    noise = torch.where(mask[..., None], x, torch.full_like(x, math.inf))
    assert torch.equal(stem(noise, mask), stem(torch.where(mask[..., None], x, 0.0), mask))
    assert stem(x, mask).shape == (1, *stem.cells((20, 12)), 4)
