"""The contract of an input kind: settings that turn raw values into `Elements`, and the module that lifts them.

A kind is one file: a `…Input` settings class (validated, documented, saved in the spec) with

    parse(value)    raw value of one sample → Sample; a `DataError` says what was given and what was wanted
    fit(samples)    settings completed by what only the training split can tell (mean, std, classes)
    completed()     the same without data, to count what a model costs
    collate(samples) Samples → Elements; an absent sample is None
    build()         the module from Elements to (B, M, C)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import nn

from perceivers.cells import real_spread
from perceivers.elements import Elements
from perceivers.errors import DataError, PerceiversError, SpecError, unknown
from perceivers.nn.attention.planner import PartShape
from perceivers.nn.lifted import Lifted
from perceivers.nn.position import FourierPosition
from perceivers.nn.streamed import Streamed
from perceivers.settings import Settings
from perceivers.sources import Source

if TYPE_CHECKING:
    from perceivers.inputs.held_grid import HeldGrid
    from perceivers.inputs.held_set import HeldSet

# Whole numbers ≥ 0, as (run seed, epoch, sample index): all that decides a change of a sample.
Seed = Sequence[int]


@dataclass(frozen=True)
class Sample:
    """One input of one sample, in its own units.

    values: (n1, …, nA, C) on a grid, or (M, C) with `coords` (M, A).
    mask: True = real, shaped as the cells; None = all.
    padding: how many of the masked cells only fill up a fixed length; the others were NaN, infinite or empty.
    cut_from: the grid, or (rows,), that the values were cut out of; None: nothing was cut away.
    """

    values: np.ndarray
    coords: np.ndarray | None = None
    mask: np.ndarray | None = None
    padding: int = 0
    cut_from: tuple[int, ...] | None = None

    @property
    def given(self) -> tuple[int, ...]:
        """The grid, or (rows,), that it had before anything was cut away."""
        return self.values.shape[:-1] if self.cut_from is None else self.cut_from

    @property
    def masked(self) -> int:
        """How many cells are masked because they were NaN, infinite or empty."""
        return 0 if self.mask is None else int((~self.mask).sum()) - self.padding


class Scale(NamedTuple):
    """Of each channel its name, for messages, and the mean and standard deviation of the training split."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_channels(cls, mean: Sequence[float] | None, std: Sequence[float] | None) -> "Scale | None":
        """Of channels that have a number and no name; None before they are known."""
        if mean is None or std is None:
            return None
        return cls(tuple(f"channel {n}" for n in range(1, len(mean) + 1)), tuple(mean), tuple(std))


class Input(nn.Module, ABC):
    """The module of an input kind. `channels` is C, the width of what `forward` returns when joined.

    What `plan` asks is about one sample of M `elements`. `raw_grid` is the settings' own: the grid before the lift.
    """

    channels: int
    pointwise: ClassVar[bool] = False
    """Its elements are the rows of a sample, in their order."""

    @abstractmethod
    def forward(self, elements: Elements) -> Lifted:
        """Normalise, lift and add position."""

    def stream(self, source: Source, grid: tuple[int, ...], nan: Literal["mask", "error"]) -> Streamed:
        """The elements of `source` in runs. Asked only of kinds whose settings give a `source_grid`."""
        raise AssertionError(f"{type(self).__name__} reads no source")

    @property
    def source_unit(self) -> int:
        """Rows of a source that belong together: of a patch; a part of a source begins at a multiple of it."""
        return 1

    def flops(self, elements: int, raw_grid: tuple[int, ...] | None) -> int:
        """Multiplications and additions of `forward`: every linear runs once an element, unless a kind says more."""
        return linear_flops(self, elements)

    def kept(self, raw_grid: tuple[int, ...] | None) -> list[int]:
        """Numbers that each layer below the elements keeps for its backward pass; none, unless a kind says more."""
        return []

    def part(self, elements: int, channels: int, raw_grid: tuple[int, ...] | None) -> PartShape:
        """What the attention's planner sees of this input where all are padded to `channels`."""
        return PartShape(elements, channels)

    def table_floats(self, elements: int) -> int:
        """Numbers of Fourier positions that are joined to the elements, once for all samples."""
        return sum(elements * part.channels for part in self.modules() if isinstance(part, FourierPosition))


class InputSettings(Settings, ABC):
    """What every input kind has."""

    whole_files: ClassVar[tuple[str, ...]] = ()
    """Endings of files that `parse` reads, of those that can also be sources."""
    reads_files: ClassVar[bool] = False
    """A string cell may be a path, which is relative to its table."""
    reads_columns: ClassVar[bool] = False
    """It names its table columns itself, as `table_columns` gives them; each cell of one is masked by itself."""
    columnwise: ClassVar[bool] = False
    """Its columns have statistics and weights of their own, so that those of other columns mean nothing to it."""
    augmentation: ClassVar[type[Settings] | None] = None
    """The settings that say how a training sample is changed; None: it never is. Then listed in `AnyAugmentation`."""
    augments_targets: ClassVar[bool] = False
    """Its augmenter has `with_targets(sample, seed, targets)` → sample, targets: those that lie on its pixels too."""
    moves_targets: ClassVar[bool] = True
    """Its augmenter moves its elements, so that targets that lie on them no longer do."""
    mixable: ClassVar[bool] = False
    """Two samples can be mixed, as MixUp and CutMix do: they are numbers on one and the same grid of two axes."""
    drafted_name: ClassVar[str] = ""
    """Of a kind that `reads_columns`: what `init` calls the one input that reads all such columns of a table."""
    augmentation_idea: ClassVar[Mapping[str, Any]] = {}
    """The changes that `init` proposes beside an input of this kind; none where it is empty."""
    continued: ClassVar[bool] = False
    """It is a sequence of tokens that `encoder.kind: autoregressive` continues, and has what that asks for: `length`,
    `vocabulary`, `rotary`, `written`, and a module with `embedding` and `embedded`."""
    statistics_from: ClassVar[int | None] = None
    """`fit` learns from at most so many training samples, spread evenly over the split; None: from all."""
    nan: Literal["mask", "error"] = "mask"
    """NaN or infinity in a value: `mask` that element (counted and reported), or stop with an `error`."""

    @classmethod
    def drafted(cls, why: str, facts: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
        """What `init` writes for what looks like this kind: the reason and the settings.

        why: how it was recognised. facts: what was found there (`data.guess`), or the `columns` of a kind that reads
        several. rows: of the training split. The facts are the settings, unless a kind says more.
        """
        return why, {"kind": cls.model_fields["kind"].default, **facts}

    @classmethod
    def sized(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings as `init` writes them: with a lift and a position that suit their size, where they have one."""
        return dict(settings)

    @property
    def names_columns(self) -> bool:
        """Whether it reads columns that its settings name, one value a sample being their cells by name."""
        return self.reads_columns

    def table_columns(self, name: str) -> list[str]:
        """The table columns that this input reads when the recipe maps none: its own name."""
        return [name]

    def resolved(self, cell: Any, base: Path) -> Any:
        """A table's `cell` for `parse`, with a path in it made relative to the table's folder `base`.

        The path is the cell, or the `path` of one that is {"bytes", "path"}.
        """
        if self.reads_files and isinstance(cell, Mapping) and isinstance(cell.get("path"), str):
            return {**cell, "path": str(base / cell["path"])}
        return str(base / cell) if self.reads_files and isinstance(cell, (str, Path)) else cell

    @abstractmethod
    def parse(self, value: Any) -> Sample:
        """The raw value of one sample as a `Sample`. Raises `DataError`."""

    def parse_some(self, value: Any) -> Sample:
        """Some elements of a sample: a window of its grid of any size, or some of a set. Raises `DataError`."""
        raise DataError(f"an input of kind {self.kind} is given whole.")  # pyright: ignore[reportAttributeAccessIssue]

    def held(self, module: Any, block: int) -> "HeldGrid | HeldSet":
        """The elements of one sample that changes, in blocks of about `block`. Raises `SpecError` where none can."""
        raise SpecError(
            f"an input of kind {self.kind} cannot be live: it has no grid of cells and no set of events. "  # pyright: ignore[reportAttributeAccessIssue]
            "A series, image, sound or video can; this one may be among the others, which are given whole."
        )

    def fit(self, samples: Iterable[Sample]) -> Self:
        """These settings, completed from training samples. Kinds with nothing to learn return themselves."""
        return self

    def companions(self, setting: Any) -> int:
        """How many other training samples the change `setting` wants beside its own, as the change's third argument."""
        return 0

    def augmenter(self, setting: Any) -> Callable[..., Sample]:
        """What changes a training sample as `setting`, of the class `augmentation`, says; only the seed decides how.

        It is called with sample and seed, and a list of other samples where it wants `companions`. The sample itself is
        left as it is. It goes to other processes, so it must pickle. Raises `SpecError` for a
        setting that these settings do not allow.
        """
        raise AssertionError(f"{type(self).__name__} has no augmentation")

    def aligned(self, target: Any) -> Any:
        """A target that lies on its pixels (H, W, …) or points (M, …), cut as `parse` cuts the input itself."""
        return target

    def augments_whole(self, setting: Any) -> bool:
        """Whether what `augmenter` makes of `setting` takes what `parse_some` gives of the raw value, not `parse`."""
        return False

    def completed(self) -> tuple[Self, str | None]:
        """These settings with neutral values for what training would learn, so that they build.

        With it, in words, what that assumes where it changes a count, else None.
        """
        return self, None

    @abstractmethod
    def elements(self) -> int:
        """M: the most elements that one sample hands to the encoder; 0 where there is no such number."""

    def raw_grid(self) -> tuple[int, ...] | None:
        """The grid of a sample before the lift; None where there is none."""
        return None

    def own_size(self) -> tuple[int, ...] | None:
        """The size that `of_size` changes, a number an axis; None: there is none."""
        return self.raw_grid()

    def of_size(self, size: tuple[int, ...]) -> Self:
        """These settings for samples of another size, of as many axes. Asked only of kinds that have one."""
        raise AssertionError(f"{type(self).__name__} has no size")

    def plain_patch(self) -> tuple[int, ...] | None:
        """Raw cells an axis of an element that is nothing but their standardised values; None: it is something else.

        Only such an input can be had `again`.
        """
        return None

    def raw_numbers(self, elements: int) -> int:
        """Numbers in a raw sample that gives M `elements`; one an element, unless a kind says more."""
        return elements

    def source_axes(self) -> int | None:
        """Axes of the grid of a `Source` that this input can read; None: it reads none, or none from a file."""
        return None

    def source_grid(self, source: Source) -> tuple[int, ...]:
        """The grid that `source` gives rows of, in raw cells. Raises `DataError` where it is not this input's."""
        raise DataError(f"{source.name}: an input of kind {self.kind} reads no source; give its value itself.")  # pyright: ignore[reportAttributeAccessIssue]

    def scale(self) -> "Scale | None":
        """What its channels were like in training; None where there are none that numbers could be far from."""
        return None

    def numbers(self, sample: Sample) -> np.ndarray:
        """The real cells of a sample of a kind that has a `scale`: (cells, channels), NaN where one channel is not."""
        cells = sample.values.reshape(-1, sample.values.shape[-1])
        return cells if sample.mask is None else cells[sample.mask.reshape(-1)]

    @abstractmethod
    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """A batch of samples as `Elements`; None is an absent one, masked whole."""

    @abstractmethod
    def build(self) -> Input:
        """The module. Raises `SpecError` when something that training learns is still unknown."""

    def checked(self, values: np.ndarray, what: str) -> np.ndarray | None:
        """The mask (cells) of finite elements of `values` (cells, C), or None when all are; the rule `nan` decides."""
        if values.dtype.kind != "f":
            return None
        finite = np.asarray(np.isfinite(values).all(axis=-1))
        if finite.all():
            return None
        if self.nan == "error":
            raise DataError(
                f"{what} holds {int((~finite).sum())} NaN or infinite elements and 'nan: error' is set; "
                "repair the data, or set nan: mask."
            )
        return finite


def unknown_input(name: str, kinds: Mapping[str, InputSettings]) -> PerceiversError:
    """The error for a sample that names an input which is none; a column of an input is told from a slip."""
    for known, kind in kinds.items():
        if kind.names_columns and name in kind.table_columns(known):
            return DataError(f"'{name}' is no input but a column of '{known}': give {{'{known}': {{'{name}': …}}}}.")
    return unknown("input", name, kinds, DataError)


def collate_grid(samples: Sequence[Sample | None], grid: tuple[int, ...], channels: int) -> Elements:
    """Samples on one and the same grid as `Elements`, flattened row-major; absent samples are masked zeros."""
    present = [s for s in samples if s is not None]
    dtype = np.result_type(*{s.values.dtype for s in present}) if present else np.dtype(np.float32)
    count = math.prod(grid)
    if len(present) == len(samples) and all(s.mask is None for s in present):
        values = np.stack([s.values.reshape(count, channels) for s in present])
        return Elements(torch.from_numpy(values), grid=grid)
    values = np.zeros((len(samples), count, channels), dtype)
    mask = np.zeros((len(samples), count), bool)
    for row, sample in enumerate(samples):
        if sample is not None:
            values[row] = sample.values.reshape(count, channels)
            mask[row] = True if sample.mask is None else sample.mask.reshape(count)
    return Elements(torch.from_numpy(values), grid=grid, mask=torch.from_numpy(mask))


def collate_set(samples: Sequence[Sample | None], length: int, channels: int, axes: int) -> Elements:
    """Samples with coordinates as `Elements`, `length` long; behind a sample's end, and where absent, masked zeros."""
    size = len(samples), length
    values, coords = np.zeros((*size, channels), np.float32), np.zeros((*size, axes), np.float32)
    mask = np.zeros(size, bool)
    for row, sample in enumerate(samples):
        if sample is not None:
            assert sample.coords is not None, "the elements of a set have coordinates"
            count = len(sample.values)
            values[row, :count], coords[row, :count] = sample.values, sample.coords
            mask[row, :count] = True if sample.mask is None else sample.mask
    return Elements(torch.from_numpy(values), coords=torch.from_numpy(coords), mask=torch.from_numpy(mask))


def filled_up(values: np.ndarray, mask: np.ndarray | None, length: int) -> Sample:
    """The sample of `values` (n1, …, C), with their mask, made `length` long on the first axis by masked zeros."""
    missing = length - len(values)
    if not missing:
        return Sample(values, mask=mask)
    whole = np.zeros((length, *values.shape[1:]), values.dtype)
    whole[: len(values)] = values
    real = np.zeros(whole.shape[:-1], bool)
    real[: len(values)] = True if mask is None else mask
    return Sample(whole, mask=real, padding=missing * math.prod(values.shape[1:-1]))


def moments(samples: Iterable[Sample], channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over all real elements, in one float64 pass (a constant: std 1)."""
    count, total, square = 0, np.zeros(channels), np.zeros(channels)
    shift: np.ndarray | None = None
    for sample in samples:
        values = sample.values.reshape(-1, channels)
        if sample.mask is not None:
            values = values[sample.mask.reshape(-1)]
        if not len(values):
            continue
        values = values.astype(np.float64)
        if shift is None:
            # Sums are taken about the first sample's mean, or a large offset would swallow the variance.
            shift = values.mean(axis=0)
        assert shift is not None, "set by the first sample"
        count += len(values)
        total += (values - shift).sum(0)
        square += ((values - shift) ** 2).sum(0)
    if count == 0 or shift is None:
        raise DataError("no real element in the training split, so no mean and standard deviation can be learned.")
    mean = total / count
    std = real_spread(mean + shift, np.sqrt(np.maximum(square / count - mean**2, 0.0)), np.float32)
    return (mean + shift).tolist(), np.where(std > 0, std, 1.0).tolist()


def linear_flops(module: nn.Module, rows: int) -> int:
    """Multiplications and additions of every linear in `module` over `rows` rows."""
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return sum(2 * rows * layer.in_features * layer.out_features for layer in linears)


def joined_channels(content: int, position: nn.Module | None, add: bool) -> int:
    """C of elements with `content` channels and their position. Raises `SpecError` when the two cannot be added."""
    width = 0 if position is None else int(position.channels)  # pyright: ignore[reportArgumentType]
    if add and width != content:
        raise SpecError(
            f"positions of {width} channels cannot be added to elements of {content}; "
            "make the two equal, or set the position's join: concat."
        )
    return content if add else content + width
