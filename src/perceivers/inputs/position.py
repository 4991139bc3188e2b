"""Which position encoding an input takes: settings, and the module that they name (models.md §2 of the plan)."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from perceivers.errors import SpecError
from perceivers.nn.position import FourierPosition, LearnedPosition, RefinedPosition, SinusoidalPosition
from perceivers.settings import Settings


class _Refined(Settings):
    """What may stand behind any position encoding."""

    project: PositiveInt | None = None
    """Width of a linear behind it [official `project_pos_dim`]."""
    extra: int = Field(default=0, ge=0, le=16)
    """Further residual linears, with a ReLU between them [official `n_extra_pos_mlp`]."""
    join: Literal["concat", "add"] = "concat"

    def refined(self, encoding: "FourierPosition | SinusoidalPosition | LearnedPosition") -> nn.Module:
        """The encoding with what stands behind it."""
        return RefinedPosition(encoding, self.project, self.extra) if self.project or self.extra else encoding


class Fourier(_Refined):
    """Fourier features of position: K bands an axis from 1 to μ/2 [P1 §3.2]."""

    kind: Literal["fourier"] = "fourier"
    bands: PositiveInt = 16
    """K."""
    resolution: tuple[PositiveFloat, ...] | None = None
    """μ per axis; None: the grid that the encoder sees."""
    concat_position: bool = True
    """Keep the raw coordinate as the first channels."""
    sine_only: bool = False
    exact: bool = True
    """Computed in float64 on a grid; false: in float32, as other libraries do, for weights made with them."""

    def build(self, grid: tuple[int, ...]) -> nn.Module:
        """The module, for a grid (or for coordinates of as many axes)."""
        if self.resolution and len(self.resolution) != len(grid):
            raise SpecError(
                f"a fourier position's resolution has {len(self.resolution)} axes {self.resolution}, "
                f"this input has {len(grid)}; give one number an axis, or leave it out to take the grid's."
            )
        features = FourierPosition(
            self.resolution or grid, self.bands, self.concat_position, self.sine_only, exact=self.exact
        )
        return self.refined(features)


class Learned(_Refined):
    """A trainable array, one row a grid cell [P1 §3.2]."""

    kind: Literal["learned"] = "learned"
    channels: PositiveInt = 64
    init_std: float = Field(default=0.02, gt=0)
    """Scale of the truncated normal; P1 Table 2 found 1.0 best for ImageNet, released IO models use 0.02."""

    def build(self, grid: tuple[int, ...]) -> nn.Module:
        """The module, for exactly this grid."""
        return self.refined(LearnedPosition(grid, self.channels, self.init_std))


class Sinusoidal(_Refined):
    """Transformer sinusoids, one axis [Vaswani et al. 2017 §3.5]."""

    kind: Literal["sinusoidal"] = "sinusoidal"
    channels: int = Field(default=64, gt=0, multiple_of=2)

    def build(self, grid: tuple[int, ...]) -> nn.Module:
        """The module; the grid has one axis."""
        if len(grid) != 1:
            raise SpecError(f"a sinusoidal position has one axis, this input has {len(grid)}; use fourier or learned.")
        return self.refined(SinusoidalPosition(self.channels, grid[0]))


class NoPosition(Settings):
    """No position: the elements are a set."""

    kind: Literal["none"] = "none"


Position = Annotated[Fourier | Learned | Sinusoidal | NoPosition, Field(discriminator="kind")]
