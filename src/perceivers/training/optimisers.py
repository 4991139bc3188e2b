"""AdamW and LAMB, and which parameters they decay."""
# pyright: reportPrivateImportUsage=false
# torch's own optimisers are built on the `_foreach` functions; it exports them for nobody, but keeps them.

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from perceivers.errors import TrainingError
from perceivers.nn.stem import DebiasedBatchNorm
from perceivers.settings import Settings

# _NormBase: torch's batch and instance norms of any rank.
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase, DebiasedBatchNorm)
_PIECE = 2**16  # numbers


class OptimiserSettings(Settings):
    """Which optimiser, and its numbers. `lr` is the peak that a schedule scales; `eps` defaults to the kind's usual."""

    kind: Literal["adamw", "lamb"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="decay of the two moments, each in [0, 1)")
    eps: float | None = Field(default=None, gt=0, description="1e-8 for adamw and 1e-6 for lamb when not given")

    @field_validator("betas")
    @classmethod
    def _check_betas(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("both must be at least 0 and below 1")
        return value


def build_optimiser(module: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """An optimiser of `module`'s trainable parameters in two groups: decayed, and not (see `split_decay`).

    Raises `TrainingError` when `module` has no trainable parameter.
    """
    decay, no_decay = split_decay(module)
    if not decay and not no_decay:
        raise TrainingError("the model has no trainable parameter, so there is nothing to optimise.")
    groups = [
        {"params": [parameter for _, parameter in named], "weight_decay": weight_decay}
        for named, weight_decay in ((decay, settings.weight_decay), (no_decay, 0.0))
        if named
    ]
    if settings.kind == "lamb":
        eps = 1e-6 if settings.eps is None else settings.eps
        return Lamb(groups, lr=settings.lr, betas=settings.betas, eps=eps)
    eps = 1e-8 if settings.eps is None else settings.eps
    # Fused: one pass over each tensor, about three times as fast as the default on the CPU.
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=eps, fused=True)


def split_decay(module: nn.Module) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Named trainable parameters that weight decay pulls on, and those that it leaves alone.

    Left alone are biases and every parameter of a normalisation layer. All else is decayed, position arrays and
    latents included, as in the training code of Perceiver IO (appendix A.1).
    """
    of_norms = {id(p) for layer in module.modules() if isinstance(layer, _NORMS) for p in layer.parameters()}
    decay, no_decay = [], []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = name.rpartition(".")[2].endswith("bias")  # `in_proj_bias` too
        (no_decay if is_bias or id(parameter) in of_norms else decay).append((name, parameter))
    return decay, no_decay


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020, algorithm 2) in the form that trained Perceiver IO.

    With m and v Adam's bias-corrected moments, each parameter array w moves by −lr·r·u, where
    u = m / (√v + eps) + weight_decay·w and r = ‖w‖ / ‖u‖, or 1 where either norm is 0. Parameters are the arrays or
    groups that every `torch.optim.Optimizer` takes. Clipping of the gradient's global norm is not done here.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient; return what `closure` returned when one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _pieces([parameter for parameter in group["params"] if parameter.grad is not None]):
                self._step_together(group, parameters)
        return loss

    def _step_together(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        states = [self._state(parameter) for parameter in parameters]
        first = [state["exp_avg"] for state in states]
        second = [state["exp_avg_sq"] for state in states]
        for state in states:
            state["step"] += 1
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)

        # A parameter that had no gradient in some steps is behind the others, so corrections are its own.
        scale = torch._foreach_div(second, [1 - beta2 ** state["step"] for state in states])
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, group["eps"])
        update = list(torch._foreach_div(first, [1 - beta1 ** state["step"] for state in states]))
        torch._foreach_div_(update, scale)
        if group["weight_decay"]:
            torch._foreach_add_(update, parameters, alpha=group["weight_decay"])
        torch._foreach_mul_(update, _trust_ratios(parameters, update))
        torch._foreach_add_(parameters, update, alpha=-group["lr"])

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _pieces(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """All at once on a device; on the CPU as many as its cache holds, which takes half the time for large models."""
    piece, size = [], 0
    for parameter in parameters:
        piece.append(parameter)
        size += parameter.numel()
        if size >= _PIECE and parameter.device.type == "cpu":
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _trust_ratios(parameters: list[Tensor], update: list[Tensor]) -> list[Tensor]:
    """‖w‖ / ‖u‖ of each pair, or 1 where either norm is 0, as 0-dim tensors; nothing waits for the device."""
    of_parameters = torch.stack(torch._foreach_norm(parameters))
    of_update = torch.stack(torch._foreach_norm(update))
    ratios = of_parameters / of_update
    return list(torch.where((of_parameters > 0) & (of_update > 0), ratios, torch.ones_like(ratios)).unbind())
