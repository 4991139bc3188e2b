"""`reconstruction` as an output: the values of a named input, every element again [P4; official code]."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import torch
from torch import Tensor, nn

from perceivers.elements import Elements
from perceivers.errors import missing_extra
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.stem import depth_to_space
from perceivers.outputs.base import Context, Output, OutputSettings, Sizes

if TYPE_CHECKING:
    from torchmetrics import Metric


class ReconstructionOutput(OutputSettings):
    """The values of one of the model's inputs; the loss is on the standardised scale. It reads no column."""

    kind: Literal["reconstruction"] = "reconstruction"
    input: str
    """Name of the input."""

    @property
    def of_input(self) -> str | None:
        """The input."""
        return self.input

    @property
    def again(self) -> str | None:
        """The input."""
        return self.input

    @property
    def averaged(self) -> bool:
        """It asks the decoder nothing, of whatever kind that is."""
        return True

    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> NoReturn:
        """Never asked for: the input's positions ask."""
        raise AssertionError("a reconstruction has no queries of its own")

    def table_columns(self, name: str) -> list[str]:
        """None: the input has them."""
        return []

    def parse(self, value: Any) -> NoReturn:
        """Never asked for: `target_of` makes the target."""
        raise AssertionError("the target of a reconstruction is an input")

    def collate(self, targets: Sequence[Any]) -> NoReturn:
        """Never asked for: `target_of` makes the target."""
        raise AssertionError("the target of a reconstruction is an input")

    def target_of(self, elements: Elements) -> Tensor:
        """(B, cells, C) in the input's own units; NaN where a cell is masked."""
        if elements.mask is None:
            return elements.values
        values = elements.values.float()
        return torch.where(elements.mask[..., None], values, values.new_full((), math.nan))

    def fit(self, targets: Iterable[Any]) -> Self:
        """These settings: the input has the statistics."""
        return self

    def completed(self, name: str) -> tuple[Self, str | None]:
        """These settings."""
        return self, None

    def build(self, sizes: Sizes) -> "ReconstructionHead":
        """The module. The input's is one with `mean`, `std`, `lift` and `content`."""
        grid = sizes.grids[self.input]
        assert grid is not None, "the input lies on a grid"
        return ReconstructionHead(self.input, sizes.inputs[self.input], grid, sizes.read)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """Mean squared error on the standardised scale, the lower the better."""
        return "mse", "min"


class ReconstructionHead(Output):
    """Standardised values (B, M, c) of every element; a linear on what its position was answered, zero at first.

    source: the module of the input, whose raw samples lie on `grid`.
    """

    source: Any

    def __init__(self, name: str, source: Any, grid: Sequence[int], read_channels: int) -> None:
        super().__init__()
        self.name, self.source = name, source
        self.grid = tuple(grid)
        self.patch: tuple[int, ...] = source.lift.units(len(self.grid))
        self.head = plain_linear(read_channels, source.channels, zero=True)

    def queries(self, context: Context) -> NoReturn:
        """Never asked for: the input's positions ask."""
        raise AssertionError("a reconstruction has no queries of its own")

    def count(self, elements: Mapping[str, int]) -> int:
        """None of the decoder's."""
        return 0

    def flops(self, elements: Mapping[str, int]) -> int:
        """Of the head, once an element."""
        return 2 * elements[self.name] * self.head.in_features * self.head.out_features

    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """Answers to the positions (B, M, E) → (B, M, c)."""
        return self.head(answers)

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared error over an example's real elements, on the standardised scale; target in own units."""
        wanted, real = self._standardised(target)
        apart = torch.where(real, prediction.float() - wanted, prediction.new_zeros((), dtype=torch.float32))
        return apart.square().sum((1, 2)) / real.sum((1, 2)).clamp(min=1), real.flatten(1).any(1)

    def metrics(self) -> "dict[str, Metric]":
        """Mean squared error over all real elements, on the standardised scale: 1 is what answering the mean has."""
        try:
            from torchmetrics.regression import MeanSquaredError
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        return {"mse": MeanSquaredError()}

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch; masked elements are left out."""
        wanted, real = self._standardised(target)
        if bool(real.any()):
            metrics["mse"].update(prediction.float()[real], wanted[real])

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: the values in the input's own units, as lists in lists of its grid and channels} a sample."""
        cells = [size // p for size, p in zip(self.grid, self.patch, strict=True)]
        values = depth_to_space(prediction.double().unflatten(1, cells), self.patch)
        return [{name: each.tolist()} for each in values * self.source.std.double() + self.source.mean.double()]

    def _standardised(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, c), and where an element is real."""
        content, mask = self.source.content(Elements(target, grid=self.grid).finite())
        real = torch.ones_like(content, dtype=torch.bool) if mask is None else mask[..., None].expand_as(content)
        return content.float(), real
