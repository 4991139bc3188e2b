"""The encoder: which module runs when, which weights are shared, what masks do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.errors import SpecError
from perceivers.nn import CrossAttend, Encoder, SelfAttend
from perceivers.nn.perceiver import encoder_order, shared_index

C, B = ("cross", 0), ("block", 0)


def encoder(order, layers=2, **sizes) -> Encoder:
    """An encoder of 3 latents × 8 with the distinct modules that the order names."""
    count = lambda kind: 1 + max((i for k, i in order if k == kind), default=-1)  # noqa: E731
    blocks = [[SelfAttend(8, heads=2) for _ in range(layers)] for _ in range(count("block"))]
    return Encoder(3, 8, [CrossAttend(8, 5) for _ in range(count("cross"))], blocks, order, **sizes)


def test_perceiver_io_reads_once_and_repeats_one_block():
    assert encoder_order(1, 8) == [C] + [B] * 8


def test_the_2021_perceiver_reads_eight_times_with_two_sets_of_weights():
    order = encoder_order(8, 8, interleaved=True, cross_sharing="after_first", block_sharing="all")
    assert order == [C, B] + [("cross", 1), B] * 7


def test_cross_attends_at_the_start():
    assert encoder_order(3, 2) == [("cross", 0), ("cross", 1), ("cross", 2), B, B]
    assert encoder_order(2, 0) == [("cross", 0), ("cross", 1)]


def test_two_cross_attends_among_blocks_of_their_own():
    order = encoder_order(2, 4, interleaved=True, block_sharing="none")
    assert order == [C, B, ("block", 1), ("cross", 1), ("block", 2), ("block", 3)]


@given(st.integers(1, 9), st.integers(1, 20), st.sampled_from(["all", "after_first", "none"]))
def test_interleaved_cross_attends_are_spread_evenly(crosses, blocks, sharing):
    if crosses > blocks:
        with pytest.raises(SpecError, match=f"{crosses} interleaved cross-attends need as many latent blocks"):
            encoder_order(crosses, blocks, interleaved=True)
        return
    order = encoder_order(crosses, blocks, interleaved=True, cross_sharing=sharing, block_sharing=sharing)
    for kind, count in (("cross", crosses), ("block", blocks)):
        assert [i for k, i in order if k == kind] == [shared_index(n, sharing) for n in range(count)]
    kinds = [kind for kind, _ in order]
    assert kinds[0] == "cross"
    assert kinds[-1] == "block", "the last that is read is thought about"
    runs = "".join(kind[0] for kind in kinds).split("c")[1:]
    assert max(map(len, runs)) - min(map(len, runs)) <= 1, "as many blocks after each, give or take one"


@pytest.mark.parametrize(
    ("sharing", "wanted"), [("all", [0, 0, 0, 0]), ("after_first", [0, 1, 1, 1]), ("none", [0, 1, 2, 3])]
)
def test_sharing(sharing, wanted):
    assert [shared_index(i, sharing) for i in range(4)] == wanted


@pytest.mark.parametrize(
    "order",
    [
        encoder_order(1, 3),
        encoder_order(3, 3, interleaved=True, cross_sharing="after_first"),
        encoder_order(2, 4, interleaved=True, cross_sharing="none", block_sharing="none"),
        encoder_order(2, 3, cross_sharing="all", block_sharing="after_first"),
    ],
)
def test_the_modules_that_run_are_those_of_the_order(order):
    model, ran = encoder(order), []
    for i, cross in enumerate(model.cross_attends):
        cross.register_forward_hook(lambda *_, i=i: ran.append(("cross", i)))
    for i, block in enumerate(model.blocks):
        for layer, attend in enumerate(block):
            attend.register_forward_hook(lambda *_, i=i, layer=layer: ran.append(("block", i, layer)))
    model(torch.randn(2, 4, 5))
    wanted = []
    for kind, i in order:
        wanted += [("cross", i)] if kind == "cross" else [("block", i, 0), ("block", i, 1)]
    assert ran == wanted


def test_shared_weights_are_counted_and_stored_once():
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    once, often = encoder(encoder_order(1, 1)), encoder(encoder_order(8, 8, True, "after_first"))
    assert count(often) == count(once) + count(once.cross_attends[0])
    assert set(often.state_dict()) - set(once.state_dict()) == {
        f"cross_attends.1.{name}" for name in once.cross_attends[0].state_dict()
    }


def test_every_step_is_taken_in_turn():
    model = encoder(encoder_order(2, 2, interleaved=True, block_sharing="none"), layers=1).double()
    elements = torch.randn(2, 4, 5, dtype=torch.float64)
    x = model.latents.expand(2, -1, -1)
    for i in range(2):
        x = model.blocks[i][0](model.cross_attends[i](x, elements))
    torch.testing.assert_close(model(elements), x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_masked_element_changes_nothing_forward_or_backward(value):
    model = encoder(encoder_order(2, 2, interleaved=True)).double()
    elements = torch.randn(2, 6, 5, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, False, True], [False] * 6])
    results = []
    for fill in (0.0, value):
        model.zero_grad()
        filled = torch.where(mask[..., None], elements, fill).requires_grad_()
        latents = model(filled, mask)
        latents.square().sum().backward()
        results.append((latents, filled.grad, [p.grad for p in model.parameters()]))
    (zeros, zero_grad, zero_grads), (filled, grad, grads) = results
    assert torch.equal(zeros, filled)
    assert torch.equal(zero_grad, grad)
    assert torch.equal(grad[~mask], torch.zeros_like(grad[~mask]))
    assert all(torch.equal(a, b) for a, b in zip(zero_grads, grads, strict=True))
    assert all(g.isfinite().all() for g in grads)


def test_masked_elements_are_as_if_they_were_not_there():
    model = encoder(encoder_order(1, 2)).double()
    elements = torch.randn(1, 6, 5, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, False, True]])
    torch.testing.assert_close(model(elements, mask), model(elements[:, mask[0]]), rtol=0, atol=1e-12)


def test_with_nothing_to_read_the_latents_pass_on_with_the_output_bias_only():
    model = encoder([C]).double()
    read = model(torch.randn(2, 4, 5, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.bool))
    cross = model.cross_attends[0]
    x = model.latents + cross.attention.output.bias
    torch.testing.assert_close(read, (x + cross.mlp(cross.mlp_norm(x))).expand(2, -1, -1))
    assert torch.equal(model(torch.zeros(2, 0, 5, dtype=torch.float64)), read)
