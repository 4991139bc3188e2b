"""What the encoder reads: inputs in memory, and inputs that never are, which come in runs as often as asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributed import ProcessGroup

from perceivers.nn.lifted import Lifted


@dataclass(frozen=True)
class Streamed:
    """Elements of one sample, read in runs; the sum of all runs is one input.

    elements: M. channels: C. content: c, without position where that is tables. columns: cells of a grid's last axis
    where its position is tables, else None. runs: one pass over all elements, each run a `Lifted` of batch 1, made of
    `parameters` under the grad mode of the moment. A pass is made for each cross-attend, and one more for its gradient.
    """

    elements: int
    channels: int
    content: int
    columns: int | None
    runs: Callable[[], Iterator[Lifted]]
    parameters: tuple[Tensor, ...]

    def extended(self, constant: Float[Tensor, "1 E"]) -> "Streamed":
        """The same with `constant` channels behind all others."""
        wide = self.channels + constant.shape[1]
        content = self.content if self.columns else wide
        runs = lambda: (run.extended(constant) for run in self.runs())  # noqa: E731
        parameters = (*self.parameters, constant)
        return replace(self, channels=wide, content=content, runs=runs, parameters=parameters)

    def cleared(self) -> "Streamed":
        """Itself: every run is cleared as it is read."""
        return self

    @property
    def batch(self) -> int:
        """B."""
        return 1


@dataclass(frozen=True)
class Gathered:
    """The inputs of a batch as the encoder reads them: each for itself, or joined where a path wants one array.

    parts: at least one, all of one width C and batch B; the order is the order of the elements.
    group: streams are this process's share of the elements of a sample that the whole group reads; what is in memory is
    the same in every process.
    """

    parts: tuple[Lifted | Streamed, ...]
    group: ProcessGroup | None = None
    # What `joined` has made. Not a cached_property, whose lock torch.compile and torch.export cannot follow.
    _made: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def batch(self) -> int:
        """B."""
        return self.parts[0].batch

    @property
    def in_memory(self) -> tuple[Lifted, ...]:
        """The parts, none of which is a stream."""
        assert not any(isinstance(part, Streamed) for part in self.parts), "streams are never joined"
        return tuple(part for part in self.parts if isinstance(part, Lifted))

    @property
    def joined(self) -> Float[Tensor, "B M C"]:
        """All elements in one array; made once, however many cross-attends read it."""
        if "joined" not in self._made:
            arrays = [part.joined() for part in self.in_memory]
            self._made["joined"] = arrays[0] if len(arrays) == 1 else torch.cat(arrays, dim=1)
        return self._made["joined"]

    @property
    def mask(self) -> Bool[Tensor, "B M"] | None:
        """Of all elements, or None when all are real."""
        if all(part.mask is None for part in self.in_memory):
            return None
        masks = [
            torch.ones(part.content.shape[:2], dtype=torch.bool, device=part.content.device)
            if part.mask is None
            else part.mask
            for part in self.in_memory
        ]
        return masks[0] if len(masks) == 1 else torch.cat(masks, dim=1)

    def cleared(self) -> "Gathered":
        """The same with zeros where nothing is."""
        return replace(self, parts=tuple(part.cleared() for part in self.parts))
