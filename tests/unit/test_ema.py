"""The average is the formula, and borrowing the model for it leaves no trace."""

import pytest
import torch
from torch import nn

from perceivers.errors import ModelError
from perceivers.training.ema import Ema


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(3, 4))
        self.read = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 4)
        self.head.weight = self.read.weight  # tied
        self.register_buffer("table", torch.ones(1000), persistent=False)

    def forward(self, x):
        return self.head(self.norm(self.read(x)))


def bits(module: nn.Module) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in module.state_dict().items()}


def disturb(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        module.norm.running_mean.fill_(seed)
        module.norm.num_batches_tracked.fill_(seed)


def test_the_formula():
    module = Model().double()
    ema = Ema(module, 0.97)
    expected = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    for step in range(400):
        disturb(module, step)
        ema.update(step)
        d = min(0.97, (1 + step) / (10 + step))
        expected = {name: d * expected[name] + (1 - d) * p for name, p in module.named_parameters()}
    for name, value in expected.items():
        torch.testing.assert_close(ema.state_dict()[name], value, rtol=1e-13, atol=1e-13)
    assert ema.state_dict()["norm.running_mean"].tolist() == [399.0] * 4
    assert ema.state_dict()["norm.num_batches_tracked"].item() == 399


def test_a_buffer_that_was_replaced_is_followed():
    module = Model()
    ema = Ema(module, 0.9)
    module.norm.running_mean = torch.full((4,), 7.0)
    ema.update(0)
    assert ema.state_dict()["norm.running_mean"].tolist() == [7.0] * 4


def test_constant_tables_are_left_out_and_tied_weights_kept_once():
    assert set(Ema(Model(), 0.9).state_dict()) == {
        "latents", "read.weight", "read.bias", "norm.weight", "norm.bias", "head.bias",
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
    }  # fmt: skip


def test_swapping_borrows_and_gives_back_bit_for_bit():
    module = Model()
    ema = Ema(module, 0.5)
    disturb(module, 1)
    ema.update(0)
    disturb(module, 2)
    own, average = bits(module), {name: tensor.tolist() for name, tensor in ema.state_dict().items()}
    addresses = [parameter.data_ptr() for parameter in module.parameters()]
    with ema.swapped(module):
        inside = bits(module)
        assert all(inside[name] == average[name] for name in average)
        assert inside["head.weight"] == average["read.weight"]
        module.train()(torch.randn(5, 4))  # moves the batch norm's buffers
    assert bits(module) == own
    assert {name: tensor.tolist() for name, tensor in ema.state_dict().items()} == average
    assert [parameter.data_ptr() for parameter in module.parameters()] == addresses
    with pytest.raises(ZeroDivisionError), ema.swapped(module):
        _ = 1 / 0
    assert bits(module) == own


def test_another_copy_of_the_model_can_borrow_the_average():
    module, copy = Model(), Model()
    ema = Ema(module, 0.5)
    with ema.swapped(copy):
        assert bits(copy) == bits(module)
    assert bits(copy) != bits(module)


def test_state_goes_round():
    module = Model()
    ema = Ema(module, 0.9)
    disturb(module, 1)
    ema.update(0)
    other = Ema(Model(), 0.9)
    other.load_state_dict(ema.state_dict())
    for name, tensor in ema.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
        assert other.state_dict()[name].data_ptr() != tensor.data_ptr()


def test_a_state_of_another_model_is_refused_and_changes_nothing():
    ema = Ema(Model(), 0.9)
    before = {name: tensor.tolist() for name, tensor in ema.state_dict().items()}
    good = {name: tensor + 1 for name, tensor in ema.state_dict().items()}
    misnamed = {name.replace("latents", "latent"): tensor for name, tensor in good.items()}
    with pytest.raises(ModelError, match=r"lack 'latents', which the model has\. Did you mean 'latent'\?"):
        ema.load_state_dict(misnamed)
    with pytest.raises(ModelError, match="have 'extra', which the model lacks"):
        ema.load_state_dict({**good, "extra": torch.ones(1)})
    with pytest.raises(ModelError, match=r"'latents' has shape \(3, 5\); the model's is \(3, 4\)"):
        ema.load_state_dict({**good, "latents": torch.ones(3, 5)})
    assert {name: tensor.tolist() for name, tensor in ema.state_dict().items()} == before


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_makes_no_sense(decay):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        Ema(Model(), decay)
