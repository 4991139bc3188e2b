"""`video`: frames × height × width, as pixels or as patches of time and space [P1, P2]."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from perceivers.elements import Elements
from perceivers.errors import DataError
from perceivers.inputs.base import Input, Sample, collate_grid, filled_up
from perceivers.inputs.channels import ChannelInput
from perceivers.inputs.decode_video import Overflow, read_video, with_frames
from perceivers.inputs.grid import GridInput
from perceivers.inputs.held_grid import HeldGrid
from perceivers.inputs.lift import Patches, Pixels, VideoLift
from perceivers.inputs.opened import as_array
from perceivers.inputs.position import Fourier, Position
from perceivers.inputs.resize import Resize, resized
from perceivers.sources import Source

# What `init` writes: frames and the longer side at most.
_MOST_FRAMES, _MOST_SIDE = 16, 64


class VideoInput(ChannelInput):
    """A video: frames × height × width × channels, values in the file's own units (0–255 for 8-bit).

    A shorter video is masked at its end.
    """

    units: ClassVar[str] = "the video's own units (0–255 for 8-bit)"
    reads_files: ClassVar[bool] = True
    whole_files: ClassVar[tuple[str, ...]] = (".npy",)
    statistics_from: ClassVar[int | None] = 200  # means settle long before
    kind: Literal["video"] = "video"
    size: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Frames, height and width that the model sees."""
    channels: PositiveInt = 3
    overflow: Overflow = "error"
    """A video of more frames: an error, only its beginning or middle, or frames spread evenly over all of it."""
    rate: PositiveFloat | None = None
    """Frames a second at which what a file shows is read, so that sound beside it keeps its pace; None: its frames as
    they come. Arrays are read as they come."""
    resize: Resize = "none"
    """Frames of another size: an error, stretched, or scaled by the shorter side and cropped in the middle; bicubic."""
    lift: VideoLift = Pixels()
    position: Position = Field(default_factory=lambda: Fourier(bands=16))

    @model_validator(mode="after")
    def _rate_begins_at_the_beginning(self) -> Self:
        if self.rate is not None and self.overflow in ("middle", "spread"):
            raise ValueError(
                f"with a rate a video is read from its beginning, so overflow: {self.overflow} cannot be; set "
                "overflow: truncate or error, or leave rate out"
            )
        return self

    @classmethod
    def drafted(cls, why: str, facts: Mapping[str, Any], rows: int) -> tuple[str, dict[str, Any]]:
        """A few frames spread over each video, made small.

        facts: size (frames, height, width) of most, channels, one_size.
        """
        frames, height, width = facts["size"]
        settings: dict[str, Any] = {"kind": "video", "size": [frames, height, width], "channels": facts["channels"]}
        if frames > _MOST_FRAMES or not facts["one_size"]:
            settings["size"][0] = min(frames, _MOST_FRAMES)
            settings["overflow"] = "spread"
            why += f"; {settings['size'][0]} frames spread over each (more are slower)"
        if max(height, width) > _MOST_SIDE or not facts["one_size"]:
            shrink = min(_MOST_SIDE / max(height, width), 1.0)
            settings["size"][1:] = [min(max(int(side * shrink) // 8 * 8, 8), side) for side in (height, width)]
            settings["resize"] = "crop"
            why += f"; scaled and cut to {settings['size'][1]}×{settings['size'][2]} (a larger size is slower)"
        return why, cls.sized(settings)

    @classmethod
    def sized(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Patches of two frames and up to 8 × 8 pixels, as far as they tile it; Fourier positions."""
        sides = zip(settings["size"], (2, 8, 8), strict=True)
        patch = [max(step for step in range(1, most + 1) if n % step == 0) for n, most in sides]
        cells = [n // step for n, step in zip(settings["size"], patch, strict=True)]
        position = {"kind": "fourier", "bands": min(max(max(cells) // 2, 2), 16)}
        return {**settings, "lift": {"kind": "patches", "size": patch}, "position": position}

    def parse(self, value: Any) -> Sample:
        """A path, bytes or array (T, H, W[, C]) as a Sample of shape (*size, channels)."""
        frames, height, width = self.size
        values = read_video(
            value,
            self.channels,
            frames,
            self.overflow,
            lambda pixels: resized(pixels, (height, width), self.resize, "the video"),
            self.rate,
        )
        least = self.lift.size[0] if isinstance(self.lift, Patches) else 1
        if len(values) < min(least, frames):
            raise DataError(
                f"the video has {len(values)} frame{'s' * (len(values) != 1)}, but {least} of them are read together, "
                "so nothing of it could be read; leave its cell empty, or change the lift's size."
            )
        return filled_up(values, self.checked(values, "the video"), frames)

    def parse_some(self, value: Any) -> Sample:
        """A window of the video, of any frames, height and width: an array, never resized."""
        window = with_frames(as_array(value, "the window"), self.channels, "the window")
        return Sample(window, mask=self.checked(window, "the window"))

    def held(self, module: GridInput, block: int) -> HeldGrid:
        """The video as a grid of cells that change."""
        return HeldGrid(module, self.size, self.channels, block)

    def source_axes(self) -> int | None:
        """Time, rows and columns: each pixel and each patch is read alone."""
        return 3

    def source_grid(self, source: Source) -> tuple[int, ...]:
        """(frames, height, width) of the input; a source may end before."""
        frames, *rest = self.size
        if source.shape[1:] != (*rest, self.channels) or source.shape[0] > frames:
            raise DataError(
                f"{source.name} has the shape {source.shape}, but the input takes {(*self.size, self.channels)}: "
                "frames, of which there may be fewer, height, width, channels. Cut or resize it, or change size in the "
                "spec."
            )
        return self.size

    def elements(self) -> int:
        """M after the lift."""
        return math.prod(self.lift.build(3, self.channels).cells(self.size))

    def raw_grid(self) -> tuple[int, ...]:
        """Frames, height and width."""
        return self.size

    def of_size(self, size: tuple[int, ...]) -> Self:
        """With that size."""
        return self.with_changes(size=size)

    def raw_numbers(self, elements: int) -> int:
        """Every channel of every pixel of every frame."""
        return math.prod(self.size) * self.channels

    def collate(self, samples: Sequence[Sample | None]) -> Elements:
        """(B, T·H·W, C) on the grid (T, H, W)."""
        return collate_grid(samples, self.size, self.channels)

    def build(self) -> Input:
        """The module."""
        return self.on_grid(self.lift.build(3, self.channels), self.position, self.size)
