import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.data.mix import MixSettings, mix_images


def batch(size=8, classes=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(size, 6, 7, 2, generator=generator, dtype=torch.float32).to(dtype)
    return values, {"label": torch.eye(classes)[torch.arange(size) % classes], "age": torch.arange(size)[:, None] / 2}


class TestMix:
    @given(st.integers(1, 9), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 50))
    def test_targets_are_mixed_as_the_pixels_are(self, size, mixup, cutmix, step):
        values, targets = batch(size)
        # An image whose every pixel is its own index: the mixed mean then is the mixed index.
        index = torch.arange(size, dtype=torch.float64)
        values = index[:, None, None, None].expand(size, 6, 7, 2).clone()
        mixed, soft = mix_images(values, targets, MixSettings(mixup=mixup, cutmix=cutmix), (0, step))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft["age"][:, 0].double() * 2, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(soft["label"].sum(1), torch.ones(size))
        assert soft["label"].min() >= 0

    def test_off(self):
        values, targets = batch()
        mixed, soft = mix_images(values, targets, MixSettings(), (0, 0))
        torch.testing.assert_close(mixed, values, rtol=0, atol=0)
        torch.testing.assert_close(soft, targets, rtol=0, atol=0)

    def test_half_and_half(self):
        values, targets = batch(8)
        mixed, _ = mix_images(values, targets, MixSettings(mixup=1.0, cutmix=1.0), (0, 4))
        neighbours = torch.cat([values[:4].roll(1, 0), values[4:].roll(1, 0)])
        untouched = ((mixed == values) | (mixed == neighbours)).all(-1)
        assert not untouched[:4].any()
        assert untouched[4:].all()
        outside = (mixed[4:] == values[4:]).all(-1)
        for one in ~outside:  # what came from the neighbour is a full box
            assert one.sum() == one.any(1).sum() * one.any(0).sum()

    def test_shares_are_drawn_from_beta_for_each_image(self):
        values, targets = batch(4096)
        _, soft = mix_images(values, targets, MixSettings(mixup=0.2), (0, 0))
        share = soft["age"][1:, 0] - targets["age"][:-1, 0]  # neighbours differ by ½, so this is share / 2
        share = share * 2
        assert share.mean() == pytest.approx(0.5, abs=0.03)
        assert share.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.1)

    def test_only_the_seed_decides(self):
        values, targets = batch()
        settings, states = MixSettings(mixup=0.5, cutmix=0.5), (torch.get_rng_state(), np.random.get_state()[1].copy())
        one = mix_images(values, targets, settings, (3, 1))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1]).all()
        torch.manual_seed(4)
        torch.testing.assert_close(mix_images(values, targets, settings, (3, 1)), one, rtol=0, atol=0)
        assert not torch.equal(mix_images(values, targets, settings, (3, 2))[0], one[0])
        torch.testing.assert_close((values, targets), batch(), rtol=0, atol=0)

    def test_a_nan_does_not_cross_the_box(self):
        values, targets = batch(2)
        values[0] = torch.nan
        mixed = [mix_images(values, targets, MixSettings(cutmix=1.0), (0, step))[0] for step in range(20)]
        shares = [float(one[1].isnan().float().mean()) for one in mixed]
        assert any(0 < share < 1 for share in shares)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_types_are_kept(self, dtype):
        values, targets = batch(dtype=dtype)
        mixed, soft = mix_images(values, targets, MixSettings(mixup=0.2, cutmix=1.0), (0, 0))
        assert mixed.dtype == dtype
        assert soft["label"].dtype == torch.float32
