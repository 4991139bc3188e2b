"""The decoders: each query alone, learned, positional or given; chunks; masks; the mean of the latents."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from perceivers.errors import SpecError
from perceivers.nn import AverageDecoder, CrossAttend, Decoder, blocks, linear
from perceivers.nn.blocks import ACTIVATIONS, MLP
from perceivers.nn.linear import Affine
from perceivers.nn.position import FourierPosition, LearnedPosition

LATENTS = torch.linspace(-2, 2, 2 * 5 * 8, dtype=torch.float64).reshape(2, 5, 8).sin()

# BLAS takes another kernel, and so adds in another order, for another number of rows; nothing else may differ.
BLAS_ROWS = {"rtol": 0, "atol": 1e-14}


def decoder(channels=6, **settings) -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Decoder(CrossAttend(channels, 8, **settings)).double().eval()


@given(st.integers(1, 12), st.integers(1, 14), st.booleans())
def test_chunks_give_the_whole_answer(queries, chunk, masked):
    generator = torch.Generator().manual_seed(queries)
    asked = torch.randn(2, queries, 6, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, queries, generator=generator) < 0.5 if masked else None
    model = decoder(heads=2, qk_channels=4)
    torch.testing.assert_close(model(asked, LATENTS, mask, chunk), model(asked, LATENTS, mask), **BLAS_ROWS)


@given(
    batch=st.integers(0, 5),
    queries=st.integers(0, 6),
    masked=st.booleans(),
    chunk=st.one_of(st.none(), st.integers(1, 4)),
    numbers=st.integers(1, 100),
)
def test_some_samples_at_a_time(batch, queries, masked, chunk, numbers):
    torch.manual_seed(0)
    asked = torch.randn(batch, queries, 6, dtype=torch.float64)
    latents = torch.randn(batch, *LATENTS.shape[1:], dtype=torch.float64)
    mask = torch.rand(batch, queries) < 0.5 if masked else None
    model, asked_at_once = decoder(heads=2, qk_channels=4), []
    plain = model(asked, latents, mask, chunk)
    model.cross_attend.register_forward_pre_hook(lambda _, given: asked_at_once.append(given[0]))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(linear, "NUMBERS_AT_ONCE", numbers)
        found = model(asked, latents, mask, chunk)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    assert all(len(some) == 1 or some.numel() <= numbers for some in asked_at_once)


@given(
    widths=st.tuples(*[st.integers(1, 20)] * 3),
    queries=st.integers(0, 40),
    widening=st.integers(1, 3),
    activation=st.sampled_from(list(ACTIVATIONS)),
    output=st.booleans(),
    residual=st.booleans(),
    chunk=st.one_of(st.none(), st.integers(1, 30)),
    numbers=st.integers(1, 100),
)
def test_a_reader_drawn_into_the_last_product(widths, queries, widening, activation, output, residual, chunk, numbers):
    channels, between, narrow = widths
    torch.manual_seed(sum(widths))
    cross = CrossAttend(channels, 8, query_residual=residual, mlp=MLP(channels, widening, activation))
    model = Decoder(cross, torch.nn.Linear(channels, between) if output else None).double().eval()
    reader = torch.nn.Linear(between if output else channels, narrow).double()
    asked = torch.randn(2, queries, channels, dtype=torch.float64)
    plain = reader(model(asked, LATENTS, chunk=chunk))
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(blocks, "NUMBERS_AT_ONCE", numbers)
        patch.setattr(linear, "NUMBERS_AT_ONCE", numbers)
        found = torch.cat(list(model.parts(asked, LATENTS, chunk=chunk, reader=Affine(*reader.parameters()))), dim=1)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("narrow", "hidden_read"), [(3, True), (600, False)])
def test_it_is_drawn_in_where_it_is_narrow(narrow, hidden_read, monkeypatch):
    model, asked = decoder(64), torch.randn(2, 300, 64, dtype=torch.float64)
    ran, real, own = [], F.linear, model.cross_attend.mlp.output.weight
    monkeypatch.setattr(F, "linear", lambda x, w, *rest: (ran.append(True) if w is own else None) or real(x, w, *rest))
    reader = Affine(torch.ones(narrow, 64, dtype=torch.float64))
    with torch.no_grad():
        list(model.parts(asked, LATENTS, reader=reader))
    assert bool(ran) is not hidden_read
    ran.clear()
    list(model.parts(asked, LATENTS, reader=reader))
    model.train().cross_attend.dropout.p = 0.5
    with torch.no_grad():
        list(model.parts(asked, LATENTS, reader=reader))
    assert len(ran) == 2


@pytest.mark.parametrize(
    "name", [*(f"cross_attend.{name}" for name in ("mlp", "mlp.hidden", "mlp.output", "mlp_norm", "dropout")), "output"]
)
def test_a_module_with_a_hook_is_called(name):
    torch.manual_seed(0)
    model = Decoder(CrossAttend(64, 8), torch.nn.Linear(64, 5)).double().eval()
    asked, reader = torch.randn(2, 300, 64, dtype=torch.float64), torch.nn.Linear(5, 2).double()
    model.get_submodule(name).register_forward_hook(lambda module, given, found: 2 * found)
    (plain,) = model.parts(asked, LATENTS, reader=Affine.of(reader))
    with torch.no_grad():
        (found,) = model.parts(asked, LATENTS, reader=Affine.of(reader))
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


def test_answers_drawn_at_random_in_use():
    torch.manual_seed(0)
    model = Decoder(CrossAttend(64, 8, dropout=0.5)).double().eval()
    model.cross_attend.dropout.train()
    asked, reader = torch.randn(2, 50, 64, dtype=torch.float64), torch.ones(1, 64, dtype=torch.float64)
    drawn = []
    model.cross_attend.dropout.register_forward_hook(lambda *_: drawn.append(True))
    with torch.no_grad():
        list(model.parts(asked, LATENTS, reader=Affine(reader)))
    assert len(drawn) == 2


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_has_a_query(chunk):
    with pytest.raises(SpecError, match=f"chunks of {chunk}"):
        decoder()(torch.zeros(2, 3, 6, dtype=torch.float64), LATENTS, chunk=chunk)


def test_queries_do_not_see_each_other():
    asked = torch.randn(2, 7, 6, dtype=torch.float64)
    model = decoder()
    alone = torch.cat([model(asked[:, i : i + 1], LATENTS) for i in range(7)], dim=1)
    torch.testing.assert_close(model(asked, LATENTS), alone, **BLAS_ROWS)


def test_learned_queries_get_a_gradient():
    query, model = LearnedPosition((3,), 6).double(), decoder()
    model(query(grid=(3,)).expand(2, -1, -1), LATENTS).sum().backward()
    assert (query.table.grad != 0).any(dim=-1).all()


def test_positional_queries_of_a_grid_equal_those_of_its_coordinates():
    position = FourierPosition((4, 4), 2)
    model = decoder(position.channels)
    grid = position(grid=(4, 4), like=LATENTS).expand(2, -1, -1)
    coordinates = torch.cartesian_prod(*[torch.linspace(-1, 1, 4, dtype=torch.float64)] * 2).expand(2, -1, -1)
    torch.testing.assert_close(model(grid, LATENTS), model(position(coords=coordinates), LATENTS))


def test_given_queries_with_and_without_residual():
    asked = torch.randn(2, 3, 6, dtype=torch.float64)
    with_residual, without = decoder(), decoder(query_residual=False)
    without.load_state_dict(with_residual.state_dict())
    read = without.cross_attend
    x = read.attention(read.query_norm(asked), read.element_norm(LATENTS))
    torch.testing.assert_close(without(asked, LATENTS), x + read.mlp(read.mlp_norm(x)))
    x = asked + x
    torch.testing.assert_close(with_residual(asked, LATENTS), x + read.mlp(read.mlp_norm(x)))


def test_a_masked_query_reads_nothing_and_changes_no_other():
    asked = torch.randn(2, 3, 6, dtype=torch.float64)
    model = decoder(query_residual=False)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    masked, whole = model(asked, LATENTS, mask), model(asked, LATENTS)
    torch.testing.assert_close(masked[mask], whole[mask], **BLAS_ROWS)
    bias = model.cross_attend.attention.output.bias
    torch.testing.assert_close(masked[0, 1], bias + model.cross_attend.mlp(model.cross_attend.mlp_norm(bias)))


def test_the_average_decoder_has_one_answer_and_no_parameters():
    average = AverageDecoder()
    assert torch.equal(average(LATENTS), LATENTS.mean(1, keepdim=True))
    assert not list(average.parameters())


def test_the_mean_may_have_a_norm_behind_it():
    average = AverageDecoder(norm_channels=LATENTS.shape[-1]).double()
    mean = LATENTS.mean(1, keepdim=True)
    torch.testing.assert_close(average(LATENTS), F.layer_norm(mean, mean.shape[-1:], eps=1e-5))
