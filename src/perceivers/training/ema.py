"""An exponential moving average of a model's weights, which often scores better than the weights themselves."""
# pyright: reportPrivateImportUsage=false
# torch's own optimisers are built on the `_foreach` functions; it exports them for nobody, but keeps them.

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from perceivers.errors import ModelError, near_miss


class Ema:
    """Shadow copies s of a module's parameters p: every update is s ← d·s + (1 − d)·p. Buffers are copied as they are.

    d is min(`decay`, (1 + step)/(10 + step)), `decay` in [0, 1), so that an average of few steps is not mostly the
    random start. Make it when `module` is on its device: the copies stay there, in the same dtypes.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average is at least 0 and below 1, not {decay}")
        self.decay = decay
        self._shadow = {name: tensor.detach().clone() for name, tensor in _tensors(module).items()}
        # Walking through the modules takes longer than averaging a small model does, so it is done once.
        parameters = dict(module.named_parameters())
        self._parameters: list[Tensor] = list(parameters.values())
        self._averages = [self._shadow[name] for name in parameters]
        # A module may put another tensor in a buffer's place, so its owner is asked each time.
        copied = [name for name in self._shadow if name not in parameters]
        self._owners = [(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in copied]
        self._copies = [self._shadow[name] for name in copied]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the module's weights as they are after optimiser step number `step`, the first being 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)
        if self._copies:
            torch._foreach_copy_(self._copies, [owner.get_buffer(name) for owner, name in self._owners])

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Within the block `module` (the one averaged, or one with the same names) has the averages as its weights.

        Its buffers are those of the last update. Afterwards its own are back, bit for bit, also when the block raises.
        Write no checkpoint of `module` meanwhile.
        """
        current = list(_tensors(module).values())
        own = [tensor.detach().clone() for tensor in current]
        shadow = [self._shadow[name] for name in _tensors(module)]
        with torch.no_grad():
            torch._foreach_copy_(current, shadow)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(current, own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights and the buffers by name: the tensors themselves, not copies."""
        return dict(self._shadow)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises `ModelError` naming what does not fit, and then changes nothing."""
        for name in [*self._shadow, *state]:
            if name not in state:
                raise ModelError(f"the averaged weights lack '{name}', which the model has.{near_miss(name, state)}")
            if name not in self._shadow:
                raise ModelError(f"the averaged weights have '{name}', which the model lacks.")
            mine, given = self._shadow[name], state[name]
            if mine.shape != given.shape:
                raise ModelError(
                    f"the averaged weight '{name}' has shape {tuple(given.shape)}; the model's is {tuple(mine.shape)}."
                )
        for name, tensor in self._shadow.items():
            tensor.copy_(state[name])


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, each once, and the buffers that belong to the model's state (constant tables are not saved)."""
    saved = module.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    return {**dict(module.named_parameters()), **buffers}
