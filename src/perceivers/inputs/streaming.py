"""From a `Source` to what the encoder reads: every run is lifted as the input's module lifts a whole sample."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from torch import Tensor
from torch.nn import functional as F

from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError
from perceivers.nn.lifted import Lifted
from perceivers.nn.position import FourierPosition
from perceivers.nn.streamed import Streamed
from perceivers.sources import Source

if TYPE_CHECKING:
    from perceivers.inputs.grid import GridInput


def streamed(module: "GridInput", source: Source, grid: tuple[int, ...], nan: Literal["mask", "error"]) -> Streamed:
    """The elements of `source` as `module` lifts them. `grid`: that of the whole input, in raw cells.

    Raises `SpecError` for a lift that looks beyond a run, as a convolution stem does, and `DataError` for coordinates
    where a grid is wanted and the other way round.
    """
    unit = module.lift.unit
    if unit is None:
        raise SpecError(
            f"{source.name}: {module.lift.called} reads across the borders of runs, so it cannot read a source; "
            "use lift pixels, samples, patches or conv1x1, or give the whole array."
        )
    if source.coords != (module.span is not None):
        has, takes = ("coordinates", "a grid") if source.coords else ("a grid", "coordinates")
        raise DataError(f"{source.name} has {has}, but the input takes {takes}.")
    if source.rows[0] % unit:
        raise DataError(
            f"{source.name}: its rows begin at {source.rows[0]}, which is no multiple of the patch's {unit}."
        )
    cells = grid if source.coords else module.lift.cells(grid)
    tables = not source.coords and isinstance(module.position, FourierPosition) and not module.add
    columns = cells[-1] if tables and len(cells) > 1 else None
    rows = -(-source.rows[1] // unit) - source.rows[0] // unit
    for size in cells[1:]:
        rows *= size

    def runs() -> Iterator[Lifted]:
        like = module.mean
        if not source.count:
            yield _run(module, source, grid, source.rows[0], like.new_zeros(0, *source.shape[1:]), None, nan)
        for start, values, coords in source.read(unit):
            yield _run(module, source, grid, start, values, coords, nan)

    return Streamed(
        elements=rows,
        channels=module.channels,
        content=module.lift.channels if columns else module.channels,
        columns=columns,
        runs=runs,
        parameters=tuple(p for p in module.parameters() if p.requires_grad),
    )


def _run(
    module: "GridInput",
    source: Source,
    grid: tuple[int, ...],
    start: int,
    values: Tensor,
    coords: Tensor | None,
    nan: Literal["mask", "error"],
) -> Lifted:
    """Rows from `start` on, lifted, with the positions that they have in the whole."""
    device = module.mean.device
    flat = values.flatten(0, -2)[None].to(device)
    if coords is not None:
        _check_coords(coords, module, f"{source.name}, rows {start} to {start + len(values)}")
        elements = Elements(flat, coords=coords[None].to(device))
    else:
        elements = Elements(flat, grid=(len(values), *grid[1:]))
    read = elements.finite()
    if read is not elements:
        lost = int((~read.present).sum())
        if nan == "error":
            raise DataError(
                f"{source.name}, rows {start} to {start + len(values)}: {lost} NaN or infinite elements, and "
                "'nan: error' is set; repair it, or set nan: mask."
            )
        source.masked += lost
    if coords is not None:
        return module(read)
    unit = module.lift.unit
    assert unit is not None, "checked before"
    content, mask = module.content(_filled(read, unit))
    position = module.window(module.lift.cells(grid), start // unit, -(-(start + len(values)) // unit), content)
    return Lifted(content, position, mask, module.add)


def _check_coords(coords: Tensor, module: "GridInput", place: str) -> None:
    """Raise `DataError` for coordinates that a whole value could not have; a series' are its times."""
    assert module.span is not None, "checked before"
    if coords.shape[1] != len(module.span):
        raise DataError(
            f"{place}: wanted coordinates of shape ({len(coords)}, {len(module.span)}); got {tuple(coords.shape)}."
        )
    if lost := int((~coords.isfinite()).sum()):
        raise DataError(
            f"{place}: {lost} of the {coords.numel()} times {'is' if lost == 1 else 'are'} NaN or infinite; "
            "every value needs its time."
        )
    for end, given in zip(module.span, coords.float().T, strict=True):
        # Compared as they are read: a time at the very end may be rounded up, and the end is with it.
        if len(given) and not (given.min() >= 0 and given.max() <= given.new_tensor(end)):
            raise DataError(
                f"{place}: times must lie between 0 and {end} s; "
                f"got {given.min().item():.6g} to {given.max().item():.6g}."
            )


def _filled(elements: Elements, unit: int) -> Elements:
    """With masked rows up to a whole patch, as a value that ends inside a patch is filled up."""
    assert elements.grid is not None, "coordinates are read one by one"
    missing = -elements.grid[0] % unit
    if not missing:
        return elements
    grid = (elements.grid[0] + missing, *elements.grid[1:])
    more = math.prod(grid) - elements.values.shape[1]
    values = F.pad(elements.values, (0, 0, 0, more))
    return Elements(values, grid=grid, mask=F.pad(elements.present, (0, more), value=False))
