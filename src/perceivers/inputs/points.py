"""`points`: a cloud of points in space, each with coordinates and perhaps more numbers [P1 §4.3, ModelNet40].

Or a set of rows of numbers that lie nowhere, such as the units of a game [P2 §4.5, StarCraft II].
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.inputs.augment_points import PointsAugmentation, augment_points
from perceivers.inputs.base import Input, Sample, Scale, Seed, collate_set, joined_channels
from perceivers.inputs.channels import ChannelInput
from perceivers.inputs.decode_points import is_inline, points_from_json, read_points
from perceivers.inputs.position import Fourier, Learned, NoPosition, Position
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.lifted import Lifted
from perceivers.settings import Settings

# Positions are as fine as so many cells an axis would be, unless the recipe says otherwise.
_FINE = 64

Bounds = tuple[tuple[float, float], ...]


class PointsInput(ChannelInput):
    """Points: coordinates in units of their own, and features in theirs. Fewer than `count` are masked at the end."""

    units: ClassVar[str] = "the features' own units"
    reads_files: ClassVar[bool] = True
    statistics_from: ClassVar[int | None] = 2000
    augmentation: ClassVar[type[Settings] | None] = PointsAugmentation
    moves_targets: ClassVar[bool] = False
    augmentation_idea: ClassVar[Mapping[str, Any]] = {"kind": "points", "scaling": [0.99, 1.01]}
    kind: Literal["points"] = "points"
    count: PositiveInt
    """The most points that the model reads."""
    axes: int = Field(default=3, ge=0, le=4)
    """Coordinates of a point: 3 in space, 2 in a plane; 0: they are a set, and lie nowhere."""
    channels: NonNegativeInt = 0
    """Further numbers of a point behind its coordinates, such as a colour or a normal; 0: it is its position alone."""
    project: PositiveInt | None = None
    """Width of a linear on the standardised channels; None: they are read as they are. The norm of what is read takes
    two numbers away from each point, its mean and its scale: of few numbers that is most."""
    extra: Literal["error", "ignore"] = "error"
    """More numbers a point than coordinates and channels: an error, or not read."""
    overflow: Literal["error", "truncate", "spread"] = "error"
    """More points: an error, only the first, or as many spread evenly over all of them in their order."""
    bounds: Bounds | None = None
    """Smallest and largest coordinate of each axis, which become −1 and 1; beyond is an error. None: every cloud for
    itself is moved to a mean of zero and scaled to just fit the cube from −1 to 1."""
    position: Position = Field(default_factory=lambda: Fourier(bands=16))

    @model_validator(mode="after")
    def _a_place_in_space(self) -> Self:
        if isinstance(self.position, Learned):
            raise ValueError("points lie on no grid, so there is nothing to learn a position for; use fourier")
        if not self.axes and not isinstance(self.position, NoPosition):
            raise ValueError("points with no axes lie nowhere; say so with position: {kind: none}")
        if isinstance(self.position, NoPosition) and not self.channels:
            raise ValueError("points without a position and without channels are all the same; give them either")
        if self.bounds is not None:
            if not self.axes:
                raise ValueError("points with no axes lie nowhere, so they have no bounds; leave bounds out")
            if len(self.bounds) != self.axes:
                raise ValueError(f"bounds has {len(self.bounds)} pairs, but there are {self.axes} axes")
            if any(low >= high for low, high in self.bounds):
                raise ValueError("each of the bounds is (smallest, largest)")
        if not self.channels and (self.mean or self.std or self.project):
            raise ValueError("mean, std and project are of features, and channels is 0")
        return self

    @classmethod
    def drafted(cls, why: str, facts: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
        """As many points as the largest cloud has, and at most 2,048.

        facts: count of the largest, and `numbers` a point; three of them are coordinates.
        """
        count, axes = min(facts["count"], 2048), min(facts["numbers"], 3)
        settings: dict[str, Any] = {"kind": "points", "count": count, "axes": axes, "channels": facts["numbers"] - axes}
        if count < facts["count"]:
            why += f"; {count:,} of them, spread evenly, are read (more are slower)"
        settings["overflow"] = "spread"
        settings["position"] = {"kind": "fourier", "bands": 16, "resolution": [_FINE] * axes}
        return why, {name: value for name, value in settings.items() if value != 0}

    def parse(self, value: Any) -> Sample:
        """An array (M, axes + channels), a list, JSON text, a path, or {"coords": …, "values": …} of such."""
        if is_inline(value):
            value = points_from_json(value)
        if isinstance(value, Mapping):
            value = self._joined(value)
        whole = self._wide(read_points(value))
        points = self.aligned(whole)
        # What float32 cannot hold becomes infinite, and so masked or an error as `nan` says.
        with np.errstate(over="ignore"):
            points = points.astype(np.float32)
        mask = self.checked(points, "the cloud")
        coords = np.ascontiguousarray(points[:, : self.axes])
        self._check_bounds(coords if mask is None else coords[mask])
        values = np.ascontiguousarray(points[:, self.axes :])
        return Sample(values, coords=coords, mask=mask, cut_from=(len(whole),) if len(whole) > len(points) else None)

    def _joined(self, fields: Mapping[str, Any]) -> np.ndarray:
        known = ("coords", "values") if self.axes else ("values",)
        if known[0] not in fields or any(name not in known for name in fields):
            given = ", ".join(map(str, fields)) or "nothing"
            wanted = "'coords' and perhaps 'values'" if self.axes else "'values', and no coordinates"
            raise DataError(f"a cloud given as a mapping has {wanted}; got {given}.")
        if not self.axes:
            return read_points(fields["values"], "the values", one_each=True)
        coords = read_points(fields["coords"], "the coords")
        if fields.get("values") is None:
            return coords
        values = read_points(fields["values"], "the values", one_each=True)
        if len(values) != len(coords):
            raise DataError(f"the cloud has {len(coords)} coords, but {len(values)} values.")
        return np.concatenate([coords, values], axis=1)

    def _wide(self, points: np.ndarray) -> np.ndarray:
        """With the input's numbers a point. Raises `DataError`."""
        wanted = self.axes + self.channels
        if not len(points):
            return np.zeros((0, wanted), np.float32)
        if points.shape[1] < wanted or (points.shape[1] > wanted and self.extra == "error"):
            more = " Set extra: ignore on the input to read only the first." if points.shape[1] > wanted else ""
            if len(points) == wanted:
                more += f" It has {wanted} rows: if these are the axes, turn it, so that each point is a row."
            raise DataError(
                f"the cloud has {points.shape[1]} numbers a point, but the input takes {wanted} ({self.axes} "
                f"coordinates and {self.channels} channels).{more}"
            )
        return points[:, :wanted]

    def aligned(self, target: np.ndarray) -> np.ndarray:
        """Of rows that are points, or what is known of points, those that are read. Raises `DataError`."""
        if len(target) <= self.count:
            return target
        if self.overflow == "error":
            raise DataError(
                f"the cloud has {len(target):,} points, but the input reads {self.count:,}. Raise count, or set "
                "overflow: spread or overflow: truncate on the input."
            )
        if self.overflow == "truncate":
            return target[: self.count]
        return target[np.arange(self.count) * len(target) // self.count]

    def _check_bounds(self, coords: np.ndarray) -> None:
        if self.bounds is None or not len(coords):
            return
        low, high = np.array(self.bounds, np.float32).T
        beyond = (coords < low) | (coords > high)
        if beyond.any():
            point, axis = np.argwhere(beyond)[0]
            raise DataError(
                f"point {point + 1} has the coordinate {coords[point, axis]:g} on axis {axis + 1}, but its bounds are "
                f"{low[axis]:g} to {high[axis]:g}; widen them, or leave bounds out."
            )

    def resolved(self, cell: Any, base: Path) -> Any:
        """`cell` with the paths in it, also those of `coords` and `values`, relative to `base`; JSON text is read."""
        if is_inline(cell):
            cell = points_from_json(cell)
        if isinstance(cell, Mapping):
            return {key: self._path(part, base) for key, part in cell.items()}
        return self._path(cell, base)

    def _path(self, cell: Any, base: Path) -> Any:
        return cell if is_inline(cell) else super().resolved(cell, base)

    def fit(self, samples: Iterable[Sample]) -> Self:
        """With mean and standard deviation of each feature, where there are any."""
        return super().fit(samples) if self.channels else self

    def completed(self) -> tuple[Self, str | None]:
        """With mean 0 and standard deviation 1 of features that are not known."""
        return super().completed() if self.channels else (self, None)

    def scale(self) -> Scale | None:
        """Of every feature."""
        return super().scale() if self.channels else None

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the features. Raises `SpecError` where they are unknown."""
        return super().statistics() if self.channels else ((), ())

    def augmenter(self, setting: PointsAugmentation) -> Callable[[Sample, Seed], Sample]:
        """Scaling. Raises `SpecError` where there are no coordinates to scale."""
        if not self.axes and setting.scaling is not None:
            raise SpecError("scaling is of coordinates, and axes is 0; leave it out.")
        return partial(augment_points, settings=setting)

    def elements(self) -> int:
        """M: one a point."""
        return self.count

    def raw_numbers(self, elements: int) -> int:
        """Coordinates and features of every point."""
        return elements * (self.axes + self.channels)

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, count, channels) with coords (B, count, axes); behind a cloud's end masked."""
        return collate_set(samples, self.count, self.channels, self.axes)

    def build(self) -> Input:
        """The module."""
        mean, std = self.statistics()
        facts = (mean, std, self.project, self.axes, self.bounds)
        if isinstance(self.position, NoPosition):
            return Points(*facts, None, add=False)
        return Points(*facts, self.position.build((_FINE,) * self.axes), add=self.position.join == "add")


class Points(Input):
    """Coordinates scaled to [−1, 1], their position encoding, and standardised features, which may be none."""

    pointwise: ClassVar[bool] = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        project: int | None,
        axes: int,
        bounds: Bounds | None,
        position: nn.Module | None,
        add: bool,
    ) -> None:
        super().__init__()
        # Not in the state dict: the spec holds them, and it travels with the weights.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.axes, self.bounds = axes, bounds
        self.project = None if project is None else plain_linear(len(mean), project)
        self.position = position
        self.add = add
        self.channels = joined_channels(project or len(mean), position, add)

    def forward(self, elements: Elements) -> Lifted:
        """Content (B, M, c), position (B, M, P), mask (B, M)."""
        if elements.coords is None or elements.coords.shape[-1] != self.axes:
            given = "a grid" if elements.coords is None else f"{elements.coords.shape[-1]} coordinates"
            raise DataError(f"the elements have {given}, but the input takes {self.axes} coordinates a point.")
        if elements.values.shape[-1] != len(self.mean):
            given = elements.values.shape[-1]
            raise DataError(f"the points have {given} channels, but the input takes {len(self.mean)}.")
        # In float32 at least, then in the weights' dtype, which the buffers follow.
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        real = elements.present[..., None]
        content = (elements.values.to(dtype) - self.mean.to(dtype)) / self.std.to(dtype)
        content = torch.where(real, content, content.new_zeros(())).to(self.mean.dtype)
        content = content if self.project is None else self.project(content)
        if self.position is None:
            return Lifted(content, None, elements.mask, self.add)
        coords = torch.where(real, elements.coords.to(dtype), content.new_zeros((), dtype=dtype))
        position = self.position(coords=self._scaled(coords, real)).to(self.mean.dtype)
        return Lifted(content, position, elements.mask, self.add)

    def _scaled(self, coords: Tensor, real: Tensor) -> Tensor:
        """Coordinates in [−1, 1]; those of masked points, which come as 0, are 0."""
        if self.bounds is not None:
            low, high = coords.new_tensor(self.bounds).T
            scaled = (coords - low) / (high - low) * 2 - 1
        else:
            middle = coords.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
            scaled = torch.where(real, coords - middle, coords.new_zeros(()))
            # A cloud that is one point lies in the middle; of no points there is no largest coordinate.
            extent = scaled.abs().flatten(1).amax(1) if scaled.shape[1] else scaled.new_zeros(len(scaled))
            scaled = scaled / torch.where(extent > 0, extent, 1.0)[:, None, None]
        return torch.where(real, scaled, coords.new_zeros(()))
