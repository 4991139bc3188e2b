"""Groups: what is grouped comes out again, nothing is lost, and shares are as even as groups allow."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.errors import SpecError
from perceivers.nn.groups import assign_groups, regroup, shares_of

counts = st.lists(st.integers(1, 300), min_size=1, max_size=5)


@given(counts, st.integers(0, 30))
def test_every_modality_has_groups_and_all_groups_are_used(elements, more):
    groups = len(elements) + more
    shares, size = assign_groups(groups, elements)
    assert sum(shares) == groups
    assert min(shares) >= 1
    assert size == max(math.ceil(count / share) for count, share in zip(elements, shares, strict=True))


@given(counts, st.integers(0, 12))
def test_no_other_assignment_has_smaller_groups(elements, more):
    """A size can be had if ⌈M/size⌉ groups a modality are not too many; one less than the greedy size cannot."""
    groups = len(elements) + more
    _, size = assign_groups(groups, elements)
    assert sum(math.ceil(count / size) for count in elements) <= groups
    assert size == 1 or sum(math.ceil(count / (size - 1)) for count in elements) > groups


@given(counts, st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_grouping_is_undone(elements, more, seed):
    groups = len(elements) + more
    generator = torch.Generator().manual_seed(seed)
    shares = shares_of(groups, elements)
    parts = [torch.rand(2, count, 3, generator=generator) + 1 for count in elements]
    grouped = [share.grouped(part) for share, part in zip(shares, parts, strict=True)]
    whole = torch.cat(grouped, dim=1)
    assert whole.shape == (2, groups, assign_groups(groups, elements)[1], 3)
    for share, part in zip(shares, parts, strict=True):
        assert torch.equal(share.ungrouped(whole[:, share.places]), part)
    assert (whole != 0).all(-1).sum() == 2 * sum(elements), "the rest is zeros"


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 7))
def test_what_fills_up_a_mask_may_be_read(mask, groups):
    (share,) = shares_of(groups, [len(mask)])
    grouped = share.grouped(torch.tensor(mask)[None, :, None], fill=True)
    assert grouped.dtype == torch.bool
    assert (~grouped).sum() == mask.count(False)
    assert torch.equal(share.ungrouped(grouped)[0, :, 0], torch.tensor(mask))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_neighbours_regrouped_come_back(groups, latents, factor):
    x = torch.arange(2 * groups * factor * latents * 3.0).reshape(2, groups * factor, latents, 3)
    assert torch.equal(regroup(regroup(x, groups), groups * factor), x)
    assert torch.equal(regroup(x, groups)[:, 0], x[:, :factor].flatten(1, 2)), "neighbours come together"


@given(st.integers(1, 5), st.integers(1, 5))
def test_transposed_groups_come_back(groups, latents):
    x = torch.arange(2 * groups * latents * 3.0).reshape(2, groups, latents, 3)
    turned = regroup(x, latents, "transpose_reshape")
    assert torch.equal(turned, x.transpose(1, 2)), "each new group has one latent of every old one"
    assert torch.equal(regroup(turned, groups, "transpose_reshape"), x)


def test_more_modalities_than_groups():
    with pytest.raises(SpecError, match="3 modalities cannot share 2 groups"):
        assign_groups(2, [5, 5, 5])
