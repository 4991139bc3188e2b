"""The paths by name, and what their forward and backward passes share."""

from dataclasses import dataclass

from torch import Tensor

from perceivers.nn.attention.absorbed import absorbed_gradients, absorbed_state
from perceivers.nn.attention.factorised import factorised_gradients, factorised_state
from perceivers.nn.attention.planner import Path
from perceivers.nn.attention.projected import projected_gradients, projected_state
from perceivers.nn.attention.state import State
from perceivers.nn.lifted import AxisTables, Lifted

STATES = {"absorbed": absorbed_state, "factorised": factorised_state, "projected": projected_state}
GRADIENTS = {"absorbed": absorbed_gradients, "factorised": factorised_gradients, "projected": projected_gradients}


@dataclass(frozen=True)
class Settings:
    """What a pass needs besides tensors. maps: how many come first among the tensors. add, order: see `Lifted`."""

    path: Path
    eps: float
    maps: int
    add: bool = False
    order: tuple[int, ...] | None = None


def with_gradients(part: Lifted, path: Path) -> Lifted:
    """The part with tables joined where they need a gradient that the path cannot give them apart."""
    position = part.position
    if path == "factorised" or not isinstance(position, AxisTables):
        return part
    if not any(table.requires_grad for table in position.tables):
        return part
    return Lifted(part.content, position.joined(), part.mask, part.add)


def offset_of(state: State, dlse: Tensor, dread: Tensor, rows: Tensor) -> Tensor:
    """⟨dread, read⟩ − dlse, (B, Q): what ds = p∘(dp − offset) subtracts."""
    return ((dread * state.read).sum(-1) - dlse).to(rows.dtype)
