"""What one worker of a process group reads of a batch: its rows of every source; and that all workers fit together."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from perceivers.elements import Batch, Elements
from perceivers.errors import GroupError
from perceivers.inputs import Input
from perceivers.nn.attention.sharded import exchange
from perceivers.sources import Source

if TYPE_CHECKING:
    from perceivers.models.model import Model

# How much of each weight is looked at, and how far the sums of two workers may be apart: rounding differs between
# kinds of processors, other weights or another sample differ by far more.
LOOKED_AT, ROUNDING = 64, 1e-5


def own_share(
    model: "Model", batch: "Batch | Mapping[str, Any] | Sequence[Mapping[str, Any]]", group: dist.ProcessGroup
) -> tuple[Batch, Batch]:
    """The batch, and the same with this worker's rows of every source; the rest is the same on every worker.

    A source that every worker gives whole is cut into equal parts, along its first axis and between patches; where one
    gives less, each worker reads what it was given. Raises `GroupError`, the same on every worker, where the workers
    were given different things or their rows are not, each once, those of the whole; where a worker cannot make its
    batch it raises its own error, and the others say which it was.
    """
    rank = dist.get_rank(group)
    if rank < 0:
        raise GroupError("this process is not in the group that it was given; only its members may read together.")
    whole, failed = None, None
    try:
        whole = model.collated(batch)
        fact = {"state": _state(model), "batch": _given(model, whole, dist.get_world_size(group))}
    except Exception as error:
        failed, fact = error, {"error": f"{type(error).__name__}: {error}"}
    everyone = exchange(group, fact, model.device)
    if failed is not None:
        raise failed
    assert whole is not None, "made, or failed"
    _check_alike(everyone)
    sources = {name: _own_rows(model, name, source, everyone, rank) for name, source in whole.sources.items()}
    return whole, replace(whole, sources=sources)


def _own_rows(model: "Model", name: str, source: Source, everyone: list[dict[str, Any]], rank: int) -> Source:
    count, unit = source.shape[0], _unit(model, name)
    rows = [tuple(said["batch"]["sources"][name]["rows"]) for said in everyone]
    if any(r != (0, count) for r in rows):
        _check_cover(name, rows, count, unit)
        return source
    if len(rows) == 1:
        return source
    units = -(-count // unit)
    first, last = (min(units * r // len(rows) * unit, count) for r in (rank, rank + 1))
    part = source.part(first, last)
    part.progress = source.progress
    return part


def _check_cover(name: str, rows: list[tuple[int, ...]], count: int, unit: int) -> None:
    listed = ", ".join(f"rank {rank}: {first} to {last}" for rank, (first, last) in enumerate(rows))
    done = 0
    for first, last in sorted(r for r in rows if r[0] < r[1]):
        if first != done:
            where = f"rows {first} to {done} twice" if first < done else f"no rows {done} to {first}"
            raise GroupError(
                f"input '{name}': the workers read {where}; together they must read every row of {count} once. "
                f"They were given {listed}."
            )
        done = last
    if done != count:
        raise GroupError(
            f"input '{name}': no worker reads the rows {done} to {count}; together they must read every row once. "
            f"They were given {listed}."
        )
    for rank, (first, _) in enumerate(rows):
        if first % unit:
            raise GroupError(
                f"input '{name}': the rows of rank {rank} begin at {first}, which is no multiple of the patch's {unit}."
            )


def _unit(model: "Model", name: str) -> int:
    module = model.inputs[name]
    assert isinstance(module, Input), "inputs are Inputs"
    return module.source_unit


def _state(model: "Model") -> dict[str, Any]:
    """What must be the same for every worker to compute the same after reading."""
    drops = model.training and any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
    return {
        "weights": _sums([p.detach().flatten()[:LOOKED_AT] for p in model.parameters()]),
        "gradients": torch.is_grad_enabled(),
        "training": model.training,
        "random": _random(model.device) if drops else "",
        "dtype": str(model.encoder.latents.dtype),
        "autocast": torch.is_autocast_enabled(model.device.type),
        "frozen": ", ".join(name for name, p in model.named_parameters() if not p.requires_grad) or "none",
    }


def _random(device: torch.device) -> str:
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    return hashlib.blake2b(state.numpy().tobytes(), digest_size=8).hexdigest()


def _given(model: "Model", batch: Batch, workers: int) -> dict[str, Any]:
    sources = {}
    for name, source in batch.sources.items():
        # What is wrong with it on this worker alone must be known before any worker waits for another.
        model.spec.inputs[name].source_grid(source)
        model.check_passes(name, source)
        if workers > 1 and source.rows == (0, source.shape[0]):
            source.part(0, source.shape[0])
        sources[name] = {"shape": source.shape, "coords": source.coords, "rows": source.rows}
    inputs = {name: _sums(_tensors(elements)) for name, elements in batch.inputs.items()}
    return {"size": batch.size, "inputs": inputs, "sources": sources}


def _tensors(elements: Elements) -> list[Tensor]:
    present = elements.finite().present
    parts = [elements.values, *([] if elements.coords is None else [elements.coords])]
    return [present.flatten(), *(torch.where(present[..., None], part, 0).flatten() for part in parts)]


def _sums(tensors: list[Tensor]) -> tuple[float, float]:
    """A sum that another order or another number changes, and the size of what went into it."""
    numbers = torch.cat([t.double() for t in tensors])
    weighted = numbers * torch.arange(len(numbers), dtype=numbers.dtype, device=numbers.device).cos()
    return float(weighted.sum()), float(weighted.abs().sum())


def _check_alike(everyone: list[dict[str, Any]]) -> None:
    """Raises `GroupError` for the first difference; all workers see the same answers, so all raise the same."""
    for rank, said in enumerate(everyone):
        if "error" in said:
            raise GroupError(f"rank {rank} has no batch to read. It says: {said['error']}")
    first = everyone[0]
    for rank, other in enumerate(everyone[1:], start=1):
        difference = _difference(first["batch"], other["batch"]) or _other_state(first["state"], other["state"])
        if difference:
            what, mine, theirs, fix = difference
            raise GroupError(f"{what}: {mine} on rank 0, {theirs} on rank {rank}. {fix}")


def _difference(mine: dict[str, Any], other: dict[str, Any]) -> tuple[str, object, object, str] | None:
    """What differs, how it is on either, and what to do."""
    if mine["size"] != other["size"]:
        return "the batches differ in size", mine["size"], other["size"], "All workers read one and the same sample."
    for kind, what in (("sources", "sources"), ("inputs", "inputs that are no source")):
        if mine[kind].keys() != other[kind].keys():
            fix = "Give all workers the same inputs; one without rows of a source gives an empty part of it."
            return f"the {what} differ", _names(mine[kind]), _names(other[kind]), fix
    for name, source in mine["sources"].items():
        for key in ("shape", "coords"):
            if source[key] != other["sources"][name][key]:
                fix = "A source's shape is that of the whole, also where it gives only some rows."
                return f"input '{name}', {key} of the source", source[key], other["sources"][name][key], fix
    for name, sums in mine["inputs"].items():
        if not _close(sums, other["inputs"][name]):
            fix = "Only sources are read in parts; of everything else all workers are given the same."
            return f"input '{name}' holds other values", *_shown(sums, other["inputs"][name]), fix
    return None


def _other_state(mine: dict[str, Any], other: dict[str, Any]) -> tuple[str, object, object, str] | None:
    if not _close(mine["weights"], other["weights"]):
        fix = "Build with the same seed, load the same directory, or broadcast those of rank 0."
        return "the weights differ", *_shown(mine["weights"], other["weights"]), fix
    for key, what, fix in (
        ("gradients", "gradients are on", "Use torch.no_grad on all workers or on none."),
        ("training", "the model is in training", "Call train() or eval() on all workers."),
        ("random", "the random states differ", "Dropout must draw alike: torch.manual_seed the same on all workers."),
        ("dtype", "the weights' dtype", "Convert the model on all workers alike."),
        ("autocast", "autocast is on", "Use torch.autocast on all workers or on none."),
        ("frozen", "weights that need no gradient", "Call requires_grad_ for the same weights on all workers."),
    ):
        if mine[key] != other[key]:
            return what, mine[key], other[key], fix
    return None


def _names(given: dict[str, Any]) -> str:
    return ", ".join(sorted(given)) or "none"


def _close(mine: list[float], other: list[float]) -> bool:
    # Where weights are no numbers any more, that is what the user is to see, not a difference.
    return not any(abs(a - b) > ROUNDING * max(mine[1], other[1]) for a, b in zip(mine, other, strict=True))


def _shown(mine: list[float], other: list[float]) -> tuple[str, str]:
    return f"a sum of {mine[0]:.6g}", f"of {other[0]:.6g}"
