"""LAMB is the published update, both optimisers decay what they should, and their state goes round."""

import math

import pytest
import torch
from torch import nn

from perceivers.errors import SpecError, TrainingError
from perceivers.nn.stem import DebiasedBatchNorm
from perceivers.settings import parse_settings
from perceivers.training import optimisers
from perceivers.training.optimisers import Lamb, OptimiserSettings, build_optimiser, split_decay


def plain_lamb(w, gradients, lr, betas, eps, weight_decay):
    """The formula, one number at a time in Python floats: Adam, + decay, × trust ratio, × −lr."""
    w, m, v, t = list(w), [0.0] * len(w), [0.0] * len(w), 0
    for gradient in gradients:
        if gradient is None:
            continue
        t += 1
        u = []
        for i, g in enumerate(gradient):
            m[i] = betas[0] * m[i] + (1 - betas[0]) * g
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g * g
            m_hat, v_hat = m[i] / (1 - betas[0] ** t), v[i] / (1 - betas[1] ** t)
            u.append(m_hat / (math.sqrt(v_hat) + eps) + weight_decay * w[i])
        norm_w, norm_u = math.hypot(*w), math.hypot(*u)
        ratio = norm_w / norm_u if norm_w > 0 and norm_u > 0 else 1.0
        w = [x - lr * ratio * y for x, y in zip(w, u, strict=True)]
    return w


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5)])
def test_lamb_is_the_formula(weight_decay, betas):
    torch.manual_seed(0)
    shapes = [(3, 4), (5,), (), (2,), (2,)]
    parameters = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    nn.init.zeros_(parameters[3])  # norm of w is 0 at first: ratio 1
    gradients = [[torch.randn(shape, dtype=torch.float64) for shape in shapes] for _ in range(6)]
    for step in gradients:
        step[4].zero_()  # norm of u is 0 without decay
    gradients[1][0] = gradients[4][1] = None  # a parameter that took no part counts its own steps
    options = {"lr": 0.05, "betas": betas, "eps": 1e-6, "weight_decay": weight_decay}
    expected = [
        plain_lamb(
            w.flatten().tolist(), [g[i] if g[i] is None else g[i].flatten().tolist() for g in gradients], **options
        )
        for i, w in enumerate(parameters)
    ]
    optimiser = Lamb(parameters, **options)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient
        optimiser.step()
    for parameter, values in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.flatten().tolist(), values, rtol=0, atol=1e-12)


def test_lamb_in_pieces_is_lamb(monkeypatch):
    def trained() -> list[list[float]]:
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(7, size)) for size in (3, 5, 2, 9)]
        optimiser = Lamb(parameters, weight_decay=0.1)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimiser.step()
        return [parameter.tolist() for parameter in parameters]

    whole = trained()
    for piece in (1, 50, 57):
        monkeypatch.setattr(optimisers, "_PIECE", piece)
        assert trained() == whole


def test_lamb_moves_every_array_by_a_share_of_its_norm():
    """Without decay ‖Δw‖ = lr·‖w‖ whatever the gradient's scale: what the trust ratio is for."""
    parameters = [nn.Parameter(torch.randn(20, 20) * scale) for scale in (1e-3, 1.0, 1e3)]
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e4
    Lamb(parameters, lr=0.01).step()
    for old, new in zip(before, parameters, strict=True):
        assert float((new.detach() - old).norm() / old.norm()) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lamb_learns_with_a_closure_and_mixed_dtypes(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    model[2].to(dtype)
    x = torch.randn(64, 3)
    y = x.sum(1, keepdim=True)
    optimiser = build_optimiser(model, OptimiserSettings(kind="lamb", lr=0.05, weight_decay=0.0))

    def closure():
        optimiser.zero_grad()
        loss = (model[2](model[1](model[0](x)).to(dtype)).float() - y).square().mean()
        loss.backward()
        return loss

    losses = [optimiser.step(closure).item() for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]
    assert model[2].weight.dtype == dtype


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, 8))
        self.position = nn.Embedding(5, 8)
        self.norm = nn.LayerNorm(8)
        self.batch = nn.BatchNorm1d(8)
        self.debiased = DebiasedBatchNorm(8)
        self.rms = nn.RMSNorm(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 5)
        self.head.weight = self.position.weight  # tied
        self.token_bias = nn.Parameter(torch.zeros(5))
        self.frozen = nn.Linear(8, 8).requires_grad_(False)


def test_decay_is_for_everything_but_biases_and_norms():
    decay, no_decay = split_decay(Model())
    assert [name for name, _ in decay] == [
        "latents", "position.weight", "attention.in_proj_weight", "attention.out_proj.weight",
    ]  # fmt: skip
    assert [name for name, _ in no_decay] == [
        "token_bias", "norm.weight", "norm.bias", "batch.weight", "batch.bias", "debiased.scale", "debiased.offset",
        "rms.weight",
        "attention.in_proj_bias", "attention.out_proj.bias", "head.bias",
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "eps"), [("adamw", 1e-8), ("lamb", 1e-6)])
def test_groups_carry_the_settings(kind, eps):
    settings = OptimiserSettings(kind=kind, lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    decayed, plain = build_optimiser(Model(), settings).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) == 4
    for group in (decayed, plain):
        assert (group["lr"], group["betas"], group["eps"]) == (0.01, (0.8, 0.9), eps)
    given = build_optimiser(Model(), settings.with_changes(eps=1e-3))
    assert {group["eps"] for group in given.param_groups} == {1e-3}


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_decay_alone_moves_only_the_decayed(kind):
    model = Model()
    optimiser = build_optimiser(model, OptimiserSettings(kind=kind, lr=0.1, weight_decay=0.5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert moved == [name for name, _ in split_decay(model)[0]]


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_state_goes_round_bit_for_bit(kind):
    def train(optimiser, parameter, steps):
        for step in steps:
            parameter.grad = torch.full_like(parameter, math.sin(step + 1)) * parameter.detach()
            optimiser.step()

    settings = OptimiserSettings(kind=kind, lr=0.1)
    whole, first, second = (nn.ParameterDict({"w": torch.arange(1.0, 5.0)}) for _ in range(3))
    optimiser = build_optimiser(whole, settings)
    train(optimiser, whole["w"], range(8))
    halfway = build_optimiser(first, settings)
    train(halfway, first["w"], range(4))
    resumed = build_optimiser(second, settings)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(halfway.state_dict())
    train(resumed, second["w"], range(4, 8))
    assert torch.equal(second["w"], whole["w"])


def test_nothing_to_train_is_an_error():
    with pytest.raises(TrainingError, match="no trainable parameter"):
        build_optimiser(nn.Linear(2, 2).requires_grad_(False), OptimiserSettings())
    only_biases = nn.Linear(2, 2)
    only_biases.weight.requires_grad_(False)
    assert len(build_optimiser(only_biases, OptimiserSettings()).param_groups) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"weight_decy": 0.1}, "weight_decy: unknown key. Did you mean 'weight_decay'?"),
        ({"kind": "lamp"}, "Did you mean 'lamb'?"),
        ({"lr": 0}, "lr: input should be greater than 0 (got 0)"),
        ({"lr": float("nan")}, "lr: input should be a finite number"),
        ({"weight_decay": -1}, "weight_decay: input should be greater than or equal to 0"),
        ({"betas": [0.9, 1.0]}, "betas: both must be at least 0 and below 1 (got [0.9, 1.0])"),
        ({"eps": 0}, "eps: input should be greater than 0"),
    ],
)
def test_settings_that_make_no_sense(data, message):
    with pytest.raises(SpecError) as error:
        parse_settings(OptimiserSettings, data, "recipe")
    assert message in str(error.value)
