"""MLP, cross-attend and self-attend: by their formulas, their widths, their dropout."""

import math

import pytest
import torch
from torch.nn import functional as F

from perceivers.errors import SpecError
from perceivers.nn import MLP, CrossAttend, SelfAttend
from perceivers.nn.blocks import ACTIVATIONS, LAYER_NORM_EPS

X = torch.linspace(-3, 3, 2 * 4 * 6, dtype=torch.float64).reshape(2, 4, 6).sin()
ELEMENTS = torch.linspace(-2, 5, 2 * 5 * 3, dtype=torch.float64).reshape(2, 5, 3).cos()


def shaken(module):
    """In float64 with no bias at zero and no norm at one, so that a wrong wiring shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 3)
    return module.double().eval()


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu_tanh", lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("gelu", lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
        ("relu_squared", lambda x: max(x, 0.0) ** 2),
    ],
)
def test_activations_by_formula(name, formula):
    points = torch.linspace(-4, 4, 41, dtype=torch.float64)
    wanted = torch.tensor([formula(x) for x in points.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](points), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gelu_without_gradients(dtype):
    """Computed by a sigmoid, in place, it is the same function wherever that is finite, and NaN where that is."""
    mlp = MLP(1, 8).to(dtype)
    torch.nn.init.ones_(mlp.hidden.weight)
    torch.nn.init.zeros_(mlp.hidden.bias)
    ends = torch.tensor([0.0, 1e-30, -1e-30, 25.0, -25.0, 1e18, -1e18, 3e30, -3e30, math.inf, math.nan])
    x = torch.cat([torch.linspace(-12, 12, 2**16), ends]).to(dtype)[:, None]
    seen = []
    handle = mlp.output.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    mlp(x)
    with torch.no_grad():
        mlp(x)
    handle.remove()
    wanted, given = seen
    bounds = {"rtol": 0, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(given, wanted.detach(), equal_nan=True, **bounds)
    assert not torch.equal(given, wanted), "it went another way"


def test_a_hook_keeps_what_the_first_linear_gave():
    """Only an array that nobody else holds is overwritten."""
    mlp, x, kept = MLP(64, 4), torch.randn(1024, 64), []
    with torch.no_grad():
        wanted, hidden = mlp(x), F.linear(x, mlp.hidden.weight, mlp.hidden.bias)
        mlp.hidden.register_forward_hook(lambda module, given, made: kept.append(made))
        torch.testing.assert_close(mlp(x), wanted)
    torch.testing.assert_close(kept[0], hidden)


def test_an_mlp_under_vmap_without_gradients():
    mlp, x = MLP(64, 4), torch.randn(3, 1024, 64)
    with torch.no_grad():
        for axis in (0, 1):
            given = torch.vmap(mlp, in_dims=axis, out_dims=axis)(x.movedim(0, axis))
            torch.testing.assert_close(given.movedim(axis, 0), mlp(x))


def test_mlp():
    mlp = shaken(MLP(6, 3, "relu_squared"))
    hidden = torch.relu(X @ mlp.hidden.weight.T + mlp.hidden.bias) ** 2
    assert hidden.shape[-1] == 18
    torch.testing.assert_close(mlp(X), hidden @ mlp.output.weight.T + mlp.output.bias)
    assert MLP(6).hidden.out_features == 6


def test_geglu_is_one_half_times_the_exact_gelu_of_the_other():
    mlp = shaken(MLP(6, 3, "geglu"))
    assert (mlp.hidden.out_features, mlp.output.in_features) == (36, 18)
    whole = X @ mlp.hidden.weight.T + mlp.hidden.bias
    hidden = whole[..., :18] * F.gelu(whole[..., 18:])
    torch.testing.assert_close(mlp(X), hidden @ mlp.output.weight.T + mlp.output.bias)


def test_unknown_activation():
    with pytest.raises(SpecError, match=r"unknown activation 'gelu_tan'\. Did you mean 'gelu_tanh'\?"):
        MLP(6, activation="gelu_tan")


@pytest.mark.parametrize("residual", [True, False])
def test_cross_attend_is_its_formula(residual):
    block = shaken(CrossAttend(6, 3, heads=2, qk_channels=4, v_channels=8, mlp=MLP(6, 2), query_residual=residual))
    mask = torch.tensor([[[True, False, True, True, False]], [[False] * 5]])
    read = block.attention(block.query_norm(X), block.element_norm(ELEMENTS), mask)
    x = X + read if residual else read
    torch.testing.assert_close(block(X, ELEMENTS, mask), x + block.mlp(block.mlp_norm(x)))


def test_self_attend_is_its_formula():
    block = shaken(SelfAttend(6, heads=2, qk_channels=4, v_channels=8))
    normed = F.layer_norm(X, (6,), block.norm.weight, block.norm.bias, LAYER_NORM_EPS)
    x = X + block.attention(normed, normed)
    torch.testing.assert_close(block(X), x + block.mlp(block.mlp_norm(x)))


@pytest.mark.parametrize(
    "watched", [None, "norm", "attention", "attention.output", "dropout", "skipped", "mlp_norm", "mlp", "mlp.output"]
)
def test_sums_in_place_change_nothing_that_somebody_holds(watched):
    """Without gradients what attention and MLP gave becomes the sum, unless a hook may have kept it."""
    block = shaken(SelfAttend(6, heads=2, qk_channels=4, v_channels=8))
    latents, kept = X.clone(), []
    if watched:
        block.get_submodule(watched).register_forward_hook(lambda module, given, made: kept.append((*given, made)))
    wanted = block(latents).detach()
    with torch.no_grad():
        torch.testing.assert_close(block(latents), wanted, rtol=0, atol=1e-12)
    assert torch.equal(latents, X)
    calls = len(kept) // 2
    for graph, none in zip(kept[:calls], kept[calls:], strict=True):
        for first, second in zip(graph, none, strict=True):
            torch.testing.assert_close(second, first.detach(), rtol=0, atol=1e-12)
    assert calls == (0 if watched is None else 2 if watched in ("dropout", "skipped") else 1)


def test_sums_in_place_are_of_arrays_that_are_given_for_it():
    """`after` overwrites nothing of a caller's, nor what a part of another kind may hold."""
    block, read = shaken(SelfAttend(6, heads=2)), torch.ones(1, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        block.after(X, read)
        assert torch.equal(read, torch.ones_like(read))

        class Nothing(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.zeros = torch.zeros(2, 4, 6, dtype=torch.float64)

            def forward(self, x):
                return self.zeros

        block.skipped = Nothing()
        assert torch.equal(block(X), X)
        assert not block.skipped.zeros.any()


def test_what_hooks_of_all_modules_see_is_not_overwritten():
    block, kept = SelfAttend(64, heads=2, mlp=MLP(64, 4)).eval(), []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, made: kept.append((made, made.clone()))
    )
    try:
        with torch.no_grad():
            block(torch.randn(2, 512, 64))
    finally:
        handle.remove()
    assert len(kept) > 8
    assert all(torch.equal(made, then) for made, then in kept)


# The tests' checks of shapes ask traced sizes for their numbers.
@pytest.mark.filterwarnings("ignore:.torch.jit.trace", "ignore::torch.jit.TracerWarning")
def test_a_trace_holds_for_other_sizes():
    mlp = MLP(64, 4)
    with torch.no_grad():
        traced = torch.jit.trace(mlp, torch.randn(1024, 64))
        x = torch.randn(4096, 64)
        torch.testing.assert_close(traced(x), mlp(x))


def test_default_widths_are_the_official_ones():
    """In a cross-attend those of what is read, in a self-attend those of the latents."""
    cross, self_attend = CrossAttend(6, 3).attention, SelfAttend(16, heads=2).attention
    assert (cross.query.out_features, cross.value.out_features, cross.output.out_features) == (3, 3, 6)
    assert (self_attend.query.out_features, self_attend.value.out_features) == (16, 16)
    assert CrossAttend(6, 3, qk_channels=5).attention.value.out_features == 5


def test_norms_have_the_official_epsilon():
    norms = [m for m in CrossAttend(6, 3).modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert len(norms) == 3


@pytest.mark.parametrize("block", [CrossAttend(6, 6, dropout=0.5), SelfAttend(6, heads=2, dropout=0.5)])
def test_dropout_acts_on_attention_and_mlp_in_training_only(block):
    block.double()
    seen = []
    handle = block.dropout.register_forward_hook(lambda *_: seen.append(True))
    arguments = (X, X) if isinstance(block, CrossAttend) else (X,)
    block.eval()
    assert torch.equal(block(*arguments), block(*arguments))
    assert len(seen) == 4, "twice a pass"
    block.train()
    assert not torch.equal(block(*arguments), block(*arguments))
    handle.remove()
