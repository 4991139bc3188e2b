"""What kinds have in common whose elements are channels in units of their own, standardised inside the model."""

from abc import ABC
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from perceivers.errors import SpecError
from perceivers.inputs.base import InputSettings, Sample, Scale, moments
from perceivers.inputs.grid import GridInput
from perceivers.inputs.lift import Lift
from perceivers.inputs.position import NoPosition, Position
from perceivers.nn.position import PermutedPosition


class ChannelInput(InputSettings, ABC):
    """Channels with a mean and a standard deviation each, which the training split tells where the recipe does not."""

    units: ClassVar[str]
    """In words, for messages: "the sensor's own units"."""
    channels: PositiveInt
    mean: tuple[float, ...] | None = None
    """Per channel, in its own units. None: learned from the training split."""
    std: tuple[PositiveFloat, ...] | None = None

    def fit(self, samples: Iterable[Sample]) -> Self:
        """With mean and standard deviation per channel of the training samples, when the recipe gives none."""
        if self.mean is not None and self.std is not None:
            return self
        mean, std = moments(samples, self.channels)
        return self.with_changes(mean=self.mean or mean, std=self.std or std)

    def scale(self) -> Scale | None:
        """Of every channel."""
        return Scale.of_channels(self.mean, self.std)

    def completed(self) -> tuple[Self, str | None]:
        """With mean 0 and standard deviation 1 where they are not known; no count depends on them."""
        width = self.channels
        return self.with_changes(mean=self.mean or (0.0,) * width, std=self.std or (1.0,) * width), None

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation. Raises `SpecError` where they are unknown or of another number of channels."""
        kind = type(self).model_fields["kind"].default
        if self.mean is None or self.std is None:
            raise SpecError(
                f"{kind}: mean and std are not known yet. perceivers.train learns them from the training split; "
                f"to build without training give both, per channel and in {self.units}."
            )
        for name, given in (("mean", self.mean), ("std", self.std)):
            if len(given) != self.channels:
                raise SpecError(f"{kind}: {name} has {len(given)} numbers, but there are {self.channels} channels.")
        return self.mean, self.std

    def on_grid(self, lift: Lift, position: Position, grid: Sequence[int], order: Tensor | None = None) -> GridInput:
        """The module for raw cells on that `grid`. order: of each place the cell whose position it has."""
        mean, std = self.statistics()
        if isinstance(position, NoPosition):
            return GridInput(mean, std, lift, None, add=False)
        code = position.build(lift.cells(grid))
        code = code if order is None else PermutedPosition(code, order)
        return GridInput(mean, std, lift, code, add=position.join == "add")
