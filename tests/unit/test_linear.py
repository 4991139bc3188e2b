"""The blocks' linear: oneDNN's product where it is taken equals the ordinary one to rounding."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

from perceivers.nn import linear
from perceivers.nn.linear import Affine, BlockLinear, is_plain, once


def taken(monkeypatch):
    """Every product that goes by oneDNN."""
    calls, real = [], torch.Tensor.to_mkldnn
    monkeypatch.setattr(torch.Tensor, "to_mkldnn", lambda x: calls.append(tuple(x.shape)) or real(x))
    return calls


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("shape", [(512, 300), (2, 256, 300), (2, 3, 100, 300)])
def test_without_gradients_large_products_go_by_onednn(shape, mode, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    torch.manual_seed(0)
    layer, x = BlockLinear(300, 700), torch.randn(shape)
    calls = taken(monkeypatch)
    with mode():
        found = layer(x)
    assert calls == [shape]
    exact = F.linear(x.double(), layer.weight.detach().double(), layer.bias.detach().double())
    assert float((found.double() - exact).norm() / exact.norm()) <= 1e-6
    assert found.layout == torch.strided


def test_an_array_of_many_axes_goes_the_ordinary_way(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    calls, layer = taken(monkeypatch), BlockLinear(300, 700)
    with torch.no_grad():
        assert layer(torch.randn(1, 1, 1, 1, 512, 300)).shape == (1, 1, 1, 1, 512, 700)
    assert not calls


# torch's own, of what it does when the first derivative is carried forward.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_vmap_and_derivatives_carried_forward_go_the_ordinary_way(monkeypatch):
    """oneDNN's layout knows neither, with or without gradients."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    calls, layer, x, way = taken(monkeypatch), BlockLinear(300, 700), torch.randn(2, 512, 300), torch.randn(2, 512, 300)
    with torch.no_grad():
        wanted = F.linear(way, layer.weight)
        torch.testing.assert_close(torch.vmap(layer)(x), F.linear(x, layer.weight, layer.bias))
        torch.testing.assert_close(torch.func.jvp(layer, (x,), (way,))[1], wanted)
        several = {name: torch.stack([p, 2 * p]) for name, p in layer.named_parameters()}
        by_layer = torch.vmap(lambda weights: torch.func.functional_call(layer, weights, x))(several)
        torch.testing.assert_close(by_layer[1], 2 * by_layer[0])
        with forward_ad.dual_level():
            carried = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, way))).tangent
        torch.testing.assert_close(carried, wanted)
    assert not calls


def test_where_mkl_is_faster_none_do(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    calls = taken(monkeypatch)
    with torch.no_grad():
        BlockLinear(300, 700)(torch.randn(512, 300))
    assert not calls


def test_what_all_samples_share_is_computed_once(monkeypatch):
    layer, shapes, real = BlockLinear(3, 2), [], F.linear
    monkeypatch.setattr(F, "linear", lambda x, *rest: shapes.append((*x.shape[:-1], 2)) or real(x, *rest))
    shared = torch.randn(1, 4, 3, requires_grad=True)
    found = once(layer, shared.expand(5, -1, -1))
    assert (shapes, tuple(found.shape)) == ([(1, 4, 2)], (5, 4, 2))
    (whole,) = torch.autograd.grad(layer(shared.repeat(5, 1, 1)).square().sum(), shared)
    (gradient,) = torch.autograd.grad(found.square().sum(), shared)
    torch.testing.assert_close(gradient, whole)
    shapes.clear()
    once(layer, torch.randn(5, 4, 3))
    assert shapes == [(5, 4, 2)]


class Adapted(torch.nn.Linear):
    """As adapters stand in for a linear: its weight and bias are to be seen, and are not all."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.weight, self.bias = base.weight, base.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


def hooked(linear: torch.nn.Linear) -> torch.nn.Module:
    linear.register_forward_hook(lambda module, given, found: found + 1)
    return linear


def replaced(linear: torch.nn.Linear) -> torch.nn.Module:
    linear.forward = lambda x: F.linear(x, linear.weight, linear.bias) + 1
    return linear


CHANGES = (Adapted, hooked, replaced)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_more_than_its_weights_is_called_for_all(change):
    changed = change(BlockLinear(3, 2))
    assert not is_plain(changed)
    assert not Affine.of(changed).drawable
    x = torch.randn(1, 4, 3).expand(5, -1, -1)
    torch.testing.assert_close(once(changed, x), F.linear(x, changed.weight, changed.bias) + 1)
    torch.testing.assert_close(Affine.of(changed)(x), F.linear(x, changed.weight, changed.bias) + 1)


def test_a_parametrised_linear_is_still_its_weights():
    layer = torch.nn.utils.parametrizations.weight_norm(BlockLinear(3, 2))
    assert is_plain(layer, torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_of_every_kind_are_noticed(kind):
    layer = BlockLinear(3, 2)
    handle = getattr(layer, f"register_{kind}")(lambda *_: None)
    assert not is_plain(layer)
    handle.remove()
    assert is_plain(layer)


def test_small_products_gradients_and_other_types_go_the_ordinary_way(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    layer, calls = BlockLinear(300, 700), taken(monkeypatch)
    large = torch.randn(512, 300)
    layer(large).sum().backward()
    with torch.no_grad():
        layer(torch.randn(2, 300))
        layer.double()(large.double())
        with torch.autocast("cpu"):
            layer.float()(large)
    assert calls == []
    assert linear.FEWEST_PRODUCTS > 2 * 300 * 700


def test_it_is_a_linear_in_every_other_way():
    layer = BlockLinear(3, 2)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert torch.equal(layer(torch.ones(1, 3)), F.linear(torch.ones(1, 3), layer.weight, layer.bias))
