"""`Elements`, one input of a batch, and `Batch`, all of them: checked when made, `.to(device)`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from perceivers.errors import DataError
from perceivers.sources import Source


@dataclass(frozen=True)
class Elements:
    """A batch of elements of one input.

    values: (B, M, C) in the input's own units (uint8 pixels, g, bytes): the model normalises.
    coords: (B, M, A) coordinates in the input's own units (seconds, metres), or None when there is a grid.
    grid:   (n1, …, nA) with n1·…·nA = M: the elements are the cells of a regular grid, row-major.
    mask:   (B, M) bool, True = real; None = all real. What a masked element holds changes nothing.
    """

    values: Tensor
    coords: Tensor | None = None
    grid: tuple[int, ...] | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3:
            raise DataError(f"elements need values of shape (B, M, C); got {tuple(self.values.shape)}.")
        batch, count, _ = self.values.shape
        if (self.coords is None) == (self.grid is None):
            raise DataError("elements need either coords or a grid, and not both.")
        if self.grid is not None and math.prod(self.grid) != count:
            raise DataError(f"a grid of {self.grid} has {math.prod(self.grid)} cells, but there are {count} elements.")
        if self.coords is not None and (self.coords.ndim != 3 or self.coords.shape[:2] != (batch, count)):
            raise DataError(f"coords must be ({batch}, {count}, A); got {tuple(self.coords.shape)}.")
        if self.mask is not None and (self.mask.shape != (batch, count) or self.mask.dtype != torch.bool):
            raise DataError(f"a mask must be bool ({batch}, {count}); got {self.mask.dtype} {tuple(self.mask.shape)}.")

    @property
    def present(self) -> Tensor:
        """(B, M) bool: the mask, or all True."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.values.shape[:2], dtype=torch.bool, device=self.values.device)

    def to(self, device: torch.device | str) -> "Elements":
        """The same elements on another device."""
        move = lambda t: None if t is None else t.to(device, non_blocking=True)  # noqa: E731
        return Elements(self.values.to(device, non_blocking=True), move(self.coords), self.grid, move(self.mask))

    def finite(self) -> "Elements":
        """The same elements with every one that holds NaN or infinity masked; itself when there is none."""
        if not self.values.is_floating_point() or self.values.is_meta:
            return self
        real = self.values.isfinite().all(-1)
        if self.coords is not None:
            real = real & self.coords.isfinite().all(-1)
        if bool((real | ~self.present).all()):
            return self
        return replace(self, mask=self.present & real)

    def keep(self, rows: Tensor) -> "Elements":
        """The same elements with every sample outside `rows` (B,) bool masked whole: that input is absent there."""
        return replace(self, mask=self.present & rows.to(self.values.device)[:, None])


@dataclass(frozen=True)
class Batch:
    """Inputs, targets and the number of samples.

    inputs:  name → Elements; a name that is missing is absent for the whole batch.
    targets: output name → Tensor; a name that is missing is unknown for the whole batch.
    size:    B. Needed because every input may be absent.
    sources: input name → `Source`, in a batch of one sample; read where the model is.
    """

    inputs: Mapping[str, Elements]
    size: int
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, elements in self.inputs.items():
            if elements.values.shape[0] != self.size:
                raise DataError(
                    f"input '{name}' has {elements.values.shape[0]} samples in a batch of {self.size}; "
                    "every input needs one row a sample (mask the row when it is absent)."
                )
        if self.sources and self.size != 1:
            names = ", ".join(f"'{name}'" for name in self.sources)
            raise DataError(f"{names}: a source is one sample, so the batch has one; this one has {self.size}.")
        for name, target in self.targets.items():
            if target.shape[0] != self.size:
                raise DataError(f"target '{name}' has {target.shape[0]} rows in a batch of {self.size}.")

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        inputs = {name: elements.to(device) for name, elements in self.inputs.items()}
        targets = {name: target.to(device, non_blocking=True) for name, target in self.targets.items()}
        return Batch(inputs, self.size, targets, self.sources)

    def without(self, *names: str) -> "Batch":
        """The same batch with the named inputs absent."""
        left = {name: e for name, e in self.inputs.items() if name not in names}
        return replace(self, inputs=left, sources={n: s for n, s in self.sources.items() if n not in names})
