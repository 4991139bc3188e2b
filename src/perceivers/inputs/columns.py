"""The module of inputs that read several table columns: every cell is an element with a column embedding."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perceivers.elements import Elements
from perceivers.inputs.base import Input
from perceivers.nn.initialisers import learned_array
from perceivers.nn.lifted import Lifted
from perceivers.nn.position import LearnedPosition


class NumberCells(Input):
    """Each number, standardised, scales a vector of its column; the column's embedding is added.

    The values are (B, columns, 1). channels: C.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int) -> None:
        super().__init__()
        # In the table's own float64: large numbers, such as times in seconds, lose their differences in float32.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64), persistent=False)
        # One number in, so fan-in is 1: the vectors start at unit scale, as large as the standardised numbers.
        self.weight = learned_array(len(mean), channels, std=1.0)
        self.position = LearnedPosition((len(mean),), channels, std=1.0)
        self.channels = channels

    def forward(self, elements: Elements) -> Lifted:
        """Content (B, columns, C), position (columns, C), mask."""
        dtype = torch.promote_types(elements.values.dtype, torch.float32)
        x = (elements.values[..., 0].to(dtype) - self.mean.to(dtype)) / self.std.to(dtype)
        if elements.mask is not None:
            x = torch.where(elements.mask, x, x.new_zeros(()))
        content = x[..., None].to(self.weight.dtype) * self.weight
        return Lifted(content, self.position(grid=elements.grid), elements.mask, add=True)


class CategoryCells(Input):
    """Each class of each column has an embedding; the column's embedding is added.

    The values are (B, columns, 1) indices. classes: how many classes each column has.
    """

    offsets: Tensor

    def __init__(self, classes: Sequence[int], channels: int) -> None:
        super().__init__()
        offsets = torch.tensor([0, *classes[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        self.embedding = nn.Embedding(sum(classes), channels, _weight=learned_array(sum(classes), channels, std=1.0))
        self.position = LearnedPosition((len(classes),), channels, std=1.0)
        self.channels = channels

    def forward(self, elements: Elements) -> Lifted:
        """Content (B, columns, C), position (columns, C), mask."""
        index = elements.values[..., 0].long()
        if elements.mask is not None:
            index = torch.where(elements.mask, index, index.new_zeros(()))
        content = self.embedding(index + self.offsets)
        return Lifted(content, self.position(grid=elements.grid), elements.mask, add=True)


class OneHotCell(Input):
    """One class as an element of as many channels as there are classes, 1 for it and 0 for the others; no parameters.

    The values are (B, 1, 1) indices [official one-hot preprocessor].
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.channels = classes
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, elements: Elements) -> Lifted:
        """Content (B, 1, C), no position, mask."""
        content = nn.functional.one_hot(elements.values[..., 0].long(), self.channels)
        return Lifted(content.to(self.get_buffer("like").dtype), None, elements.mask)
