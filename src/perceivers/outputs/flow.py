"""`flow`: how far each pixel of a first image moved until the second [P2 §4.2 and App. H]."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from perceivers.cells import is_missing
from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError, missing_extra
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.lifted import AxisTables, Lifted
from perceivers.nn.linear import Affine
from perceivers.nn.position import FourierPosition
from perceivers.nn.upsample import ConvexUpsample
from perceivers.outputs.base import AskingSettings, Context, Output, Sizes
from perceivers.outputs.flow_files import read_flow
from perceivers.settings import Settings

if TYPE_CHECKING:
    from torchmetrics import Metric

# Images of a pair.
_FRAMES = 2
# Above both a pixel's flow is wrong [KITTI 2015's Fl-all].
_WRONG, _WRONG_SHARE = 3.0, 0.05


class ConvexUpsampling(Settings):
    """The flow of each pixel is a mean of that of the 3 × 3 elements around it, by weights of its own [RAFT]."""

    kind: Literal["convex"] = "convex"
    channels: PositiveInt = 256
    """Hidden channels of what makes the weights of the answers."""


class FlowOutput(AskingSettings):
    """Pixels to the right and down, for each element of the input `input`, which asks with itself."""

    reads_files: ClassVar[bool] = True
    kind: Literal["flow"] = "flow"
    input: str = "pair"
    rescale: PositiveFloat = 100.0
    """The head's numbers are divided by it [official FlowDecoder]."""
    pixels: PositiveFloat = 20.0
    """Pixels in a unit of what is left [official flow_scale_factor]."""
    upsample: ConvexUpsampling | None = None
    """Of an input whose lift makes fewer elements than pixels, such as a convolution stem: from elements to pixels."""
    backward: str | None = None
    """The table column with the flow from the second image to the first, for training that reverses pairs."""

    @property
    def both_ways(self) -> bool:
        """Whether there is a column with the flow backward."""
        return self.backward is not None

    @property
    def names_columns(self) -> bool:
        """Where there are two of them."""
        return self.backward is not None

    def table_columns(self, name: str) -> list[str]:
        """Its own name, and that of the flow backward."""
        return [name] if self.backward is None else [name, self.backward]

    def query_channels(self, latent_channels: int, inputs: Mapping[str, nn.Module]) -> int:
        """Those of the input's elements. Raises `SpecError` where these lie on no grid of Fourier features."""
        module = inputs[self.input]
        position = getattr(module, "position", None)
        on_grid = isinstance(position, FourierPosition) and len(position.resolution) in (2, 3)
        if not on_grid or getattr(module, "add", False):
            raise self._no_pixels()
        return int(module.channels)  # pyright: ignore[reportArgumentType]

    def parse(self, value: Any) -> np.ndarray | None:
        """An array (H, W, 2), or a file of one (see `flow_files`); NaN where it is not known. Raises `DataError`.

        With a `backward` column both, as two cells: (H, W, 4), the two of the flow backward behind the others.
        """
        if self.backward is None:
            return _flow(value)
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise DataError(
                f"wanted two cells, the flow and the flow backward (column '{self.backward}'); leave the output out of "
                "data.columns, or leave backward out."
            )
        there, back = (_flow(cell) for cell in value)
        if there is None or back is None:
            return there if there is None else np.concatenate([there, np.full_like(there, np.nan)], axis=-1)
        if there.shape != back.shape:
            raise DataError(f"the flow has the shape {there.shape}, the flow backward {back.shape}; wanted one.")
        return np.concatenate([there, back], axis=-1)

    def check_laid(self, target: Any, given: tuple[int, ...]) -> None:
        """It has the images' height and width. Raises `DataError`."""
        if target.shape[:2] != given[-2:]:
            raise DataError(
                f"the flow is {_sides(target.shape[:2])}, but the images of '{self.input}' are {_sides(given[-2:])}; "
                "wanted a flow of each of their pixels."
            )

    def fit(self, targets: Iterable[Any]) -> Self:
        """Nothing is learned from targets."""
        return self

    def completed(self, name: str) -> tuple[Self, str | None]:
        """Nothing is missing."""
        return self, None

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B, H, W, 2) float32 in pixels; NaN is unknown."""
        targets = [None if target is None else target[..., :2] for target in targets]
        shapes = {target.shape for target in targets if target is not None}
        if len(shapes) > 1:
            raise DataError(f"flows of one batch have several shapes: {', '.join(map(str, sorted(shapes)))}.")
        unknown = np.full(shapes.pop() if shapes else (1, 1, 2), np.nan, np.float32)
        return torch.from_numpy(np.stack([unknown if target is None else target for target in targets]))

    def build(self, sizes: Sizes) -> "FlowHead":
        """The module."""
        grid = sizes.grids[self.input] or ()
        if len(grid) not in (2, 3):
            raise self._no_pixels()
        if len(grid) == 3 and grid[0] != _FRAMES:
            raise SpecError(f"flow output: input '{self.input}' has {grid[0]} frames; flow is between {_FRAMES}.")
        return FlowHead(self, sizes, self._factor(grid, sizes.inputs[self.input]))

    def _no_pixels(self) -> SpecError:
        return SpecError(
            f"flow output: input '{self.input}' must lie on a grid of rows and columns with a fourier position, "
            "concatenated: an image_pair or an image."
        )

    def _factor(self, grid: Sequence[int], module: Any) -> int:
        """Pixels on a side of an element. Raises `SpecError` where `upsample` cannot make the ones of the others."""
        (*lead, _, _), (*frames, _, _) = grid, module.lift.cells(grid)
        if lead != frames:
            raise SpecError(f"flow output: the elements of input '{self.input}' mix its frames; lift each for itself.")
        pixels, cells = tuple(grid[-2:]), tuple(module.lift.cells(grid)[-2:])
        said = f"flow output: input '{self.input}' has {_sides(pixels)} pixels and {_sides(cells)} elements"
        if self.upsample is None:
            if cells != pixels:
                raise SpecError(f"{said}; set upsample: {{kind: convex}}, so that there is a flow of each pixel.")
            return 1
        if cells == pixels:
            raise SpecError(f"{said}, so there is nothing to upsample; leave upsample out.")
        steps = module.lift.apart(len(grid))[-2:]
        # A cell that sticks out of the grid has fewer pixels than the others.
        if tuple(step * cell for step, cell in zip(steps, cells, strict=True)) != pixels or steps[0] != steps[1]:
            raise SpecError(
                f"{said}, {_sides(steps)} apart; upsample makes that many of each, the same on both axes, so give a "
                "size that the lift divides."
            )
        return steps[0]

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """The end-point error in pixels, the lower the better."""
        return "epe", "min"


class FlowHead(Output):
    """Flow (B, H, W, 2) in pixels."""

    def __init__(self, settings: FlowOutput, sizes: Sizes, factor: int) -> None:
        super().__init__()
        self.input = settings.input
        self.factor = settings.pixels / settings.rescale
        # Of frames that lie one behind the other the elements of the first ask.
        self.frames = _FRAMES if len(sizes.grids[self.input] or ()) == 3 else 1
        self.head = plain_linear(sizes.read, 2, zero=True)
        wide = None if settings.upsample is None else settings.upsample.channels
        self.upsample = None if wide is None else ConvexUpsample(sizes.read, factor, wide)
        self.grid = tuple(side // factor for side in (sizes.grids[self.input] or ())[-2:])

    def queries(self, context: Context) -> Lifted:
        """The elements of the input as the encoder reads them; of two frames the first's."""
        read = context.read[self.input]
        if self.frames == 1:
            return read
        assert isinstance(read.position, AxisTables), "checked when it was built"
        (frames, *others), count = read.position.tables, read.content.shape[1] // self.frames
        position = AxisTables((frames[:1], *others), read.position.order)
        return Lifted(read.content[:, :count], position, None if read.mask is None else read.mask[:, :count])

    def count(self, elements: Mapping[str, int]) -> int:
        """One an element, of two frames one an element of the first."""
        return elements[self.input] // self.frames

    def flops(self, elements: Mapping[str, int]) -> int:
        """Those of the linear, and of what upsamples."""
        finer = 0 if self.upsample is None else self.upsample.flops(self.grid, 2)
        return 4 * self.count(elements) * self.head.in_features + finer

    def reader(self, context: Context) -> Affine | None:
        """To (B, o, 2); None where the answers themselves upsample."""
        return Affine.of(self.head) if self.upsample is None else None

    def predict(self, answers: Tensor, context: Context) -> Tensor:
        """(B, H, W, 2), of each pixel."""
        position = context.read[self.input].position
        assert isinstance(position, AxisTables), "checked when it was built"
        answers = answers.unflatten(1, position.grid[-2:])
        if self.upsample is None:
            return answers * self.factor
        return self.upsample(self.head(answers) * self.factor, answers)

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The mean end-point error of an example's known pixels, in pixels."""
        errors, known = _errors(prediction, target)
        counts = known.flatten(1).sum(-1)
        return errors.flatten(1).sum(-1) / counts.clamp(min=1), counts > 0

    def metrics(self) -> "dict[str, Metric]":
        """Over all known pixels the end-point error, and `fl_all`: the share that is wrong by KITTI's rule.

        A pixel is wrong where its error is above 3 pixels and above 5 % of how far it moved.
        """
        try:
            from torchmetrics.aggregation import MeanMetric
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        return {"epe": MeanMetric(), "fl_all": MeanMetric()}

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch; pixels that are not known are left out."""
        errors, known = _errors(prediction, target)
        if bool(known.any()):
            metrics["epe"].update(errors[known])
            far = target[known].float().square().sum(-1).sqrt()
            metrics["fl_all"].update(((errors[known] > _WRONG) & (errors[known] > _WRONG_SHARE * far)).float())

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: array (H, W, 2) of pixels to the right and down} a sample."""
        return [{name: flow} for flow in prediction.float().cpu().numpy()]


def _sides(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides))


def _flow(value: Any) -> np.ndarray | None:
    if is_missing(value):
        return None
    if isinstance(value, (str, Path, bytes)):
        value = read_flow(value)
    flow = np.asarray(value, np.float32)
    if flow.ndim != 3 or flow.shape[-1] != 2:
        raise DataError(f"the flow has the shape {flow.shape}; wanted (height, width, 2): right, down, in pixels.")
    return flow


def _errors(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The end-point error of each pixel, 0 where it is not known, and where it is known."""
    if target.shape[1:] != prediction.shape[1:]:
        given, wanted = tuple(target.shape[1:3]), tuple(prediction.shape[1:3])
        if bool(target.isfinite().any()):
            raise DataError(f"the target flow is {given[0]}×{given[1]}, but the model answers {wanted[0]}×{wanted[1]}.")
        target = prediction.new_full(prediction.shape, float("nan"))
    known = target.isfinite().all(-1)
    difference = prediction.float() - torch.where(known[..., None], target.float(), prediction.float())
    # The root has no gradient at 0.
    return torch.where(known, difference.square().sum(-1).clamp(min=1e-12).sqrt(), 0.0), known
