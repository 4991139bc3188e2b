"""The blocks' linear: oneDNN's product where it is taken equals the ordinary one to rounding."""

import pytest
import torch
from torch.nn import functional as F

from perceivers.nn import linear
from perceivers.nn.linear import BlockLinear, once


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


def test_where_mkl_is_faster_none_do(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    calls = taken(monkeypatch)
    with torch.no_grad():
        BlockLinear(300, 700)(torch.randn(512, 300))
    assert not calls


def test_what_all_samples_share_is_computed_once():
    layer, shapes = BlockLinear(3, 2), []
    layer.register_forward_hook(lambda module, given, found: shapes.append(tuple(found.shape)))
    shared = torch.randn(1, 4, 3, requires_grad=True)
    found = once(layer, shared.expand(5, -1, -1))
    assert (shapes, tuple(found.shape)) == ([(1, 4, 2)], (5, 4, 2))
    (whole,) = torch.autograd.grad(layer(shared.repeat(5, 1, 1)).square().sum(), shared)
    (gradient,) = torch.autograd.grad(found.square().sum(), shared)
    torch.testing.assert_close(gradient, whole)
    shapes.clear()
    once(layer, torch.randn(5, 4, 3))
    assert shapes == [(5, 4, 2)]


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
