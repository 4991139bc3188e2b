"""Elements of one sample spread over a process group: each worker reads its part, and the states become one.

Queries, weights and all that follows the reading are the same on every worker; only the elements are apart. So the
forward pass merges the workers' states, and the backward pass sums what their elements mean for the queries and weights
that read them. What is sent does not depend on M: N·(V + H) float64 numbers forward; backward as many numbers as the
queries, the norm's scale, the maps of key and value and the parameters of the inputs' adapters have.

A worker whose elements cannot be read says so in the next collective, so all stop together. One that dies or stalls is
noticed by the group, at once or after its timeout.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from perceivers.errors import GroupError
from perceivers.nn.attention.state import State
from perceivers.nn.lifted import Lifted
from perceivers.nn.streamed import Streamed

# |lse| ≤ bound + log M; in float64 exp of 600 and of −600 is well within what there is, for any M and any read.
SAFE_LSE = 600.0
# What workers say of themselves is sent in multiples of so many bytes.
TEXT_UNIT = 4096


class Sent:
    """What this process gave to collectives: the bytes of its tensors, and how many collectives there were."""

    def __init__(self) -> None:
        self.bytes = 0
        self.collectives = 0


# Not a context variable: the backward pass may run in another thread.
_COUNTS: list[Sent] = []


@contextmanager
def counted() -> Iterator[Sent]:
    """Counts what this process gives to the collectives of sharded reading while the context is open."""
    sent = Sent()
    _COUNTS.append(sent)
    try:
        yield sent
    finally:
        _COUNTS.remove(sent)


class Workers:
    """The group as one cross-attend uses it. `error`: this worker's own, kept until a collective has told all."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.error: Exception | None = None

    def guarded(self, stream: Streamed) -> Streamed:
        """The same stream; where its runs fail, they end, and the next sum over the group raises on every worker."""

        def runs() -> Iterator[Lifted]:
            try:
                yield from stream.runs()
            except Exception as error:
                self.error = self.error or error

        return replace(stream, runs=runs)

    def attempt(self, read: Callable[[], State], nothing: State) -> State:
        """What `read` gives; `nothing`, where this worker failed."""
        state = nothing
        try:
            state = read()
        except Exception as error:
            self.error = self.error or error
        return state if self.error is None else nothing

    def sum(self, what: str, tensors: list[Tensor]) -> list[Tensor]:
        """Of each tensor the sum over the workers, by one collective. Raises on all where one has failed."""
        failed = tensors[0].new_zeros(self.size)
        failed[self.rank] = self.error is not None
        flat = torch.cat([*(t.flatten() for t in tensors), failed])
        collect(self.group, what, flat, lambda: dist.all_reduce(flat, group=self.group))
        *sums, failures = flat.split([*(t.numel() for t in tensors), self.size])
        if self.error is not None:
            raise self.error
        if failures.any():
            ranks = ", ".join(str(rank) for rank in failures.nonzero().flatten().tolist())
            raise GroupError(
                f"the {what} was given up on every worker, because rank {ranks} could not read its part; "
                "the error that it raised says why."
            )
        return [s.view_as(t) for s, t in zip(sums, tensors, strict=True)]

    def highest(self, what: str, tensor: Tensor) -> Tensor:
        """The largest over the workers, number by number."""
        found = tensor.clone()
        collect(self.group, what, found, lambda: dist.all_reduce(found, dist.ReduceOp.MAX, group=self.group))
        return found


def shared(workers: Workers, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors themselves, equal on every worker; backward their gradients are summed over the workers, at once.

    Every worker must take part in the backward pass, so every worker must read with them, if only nothing.
    """
    return _Shared.apply(workers, *tensors)


def merge_over(workers: Workers, state: State, bound: float) -> State:
    """The state (B, Q), (B, Q, W) of all workers' elements, in float64, the same on every worker.

    bound: the largest |score|, whatever the data; equal on every worker. While it is small, states are weighted by
    exp(lse) as they are, and one sum is all; where it is not, the largest lse is asked for before. The backward pass
    needs no collective: each worker finds the gradient of its own state.
    """
    return State(*_Merge.apply(state.lse, state.read, workers, bound))


class _Shared(torch.autograd.Function):
    """Identity; see `shared`."""

    @staticmethod
    def forward(ctx: Any, workers: Workers, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.workers = workers
        views = tuple(t.view_as(t) for t in tensors)
        # One that needs a gradient would make the others need one too.
        ctx.mark_non_differentiable(*(v for v, n in zip(views, ctx.needs_input_grad[1:], strict=True) if not n))
        return views

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        needed = [i for i, n in enumerate(ctx.needs_input_grad[1:]) if n]
        sums = ctx.workers.sum("sum of gradients", [gradients[i] for i in needed])
        found: list[Tensor | None] = [None] * len(gradients)
        for i, total in zip(needed, sums, strict=True):
            found[i] = total
        return None, *found


class _Merge(torch.autograd.Function):
    """(lse, read) of all workers from each one's own; see `merge_over`."""

    @staticmethod
    def forward(ctx: Any, lse: Tensor, read: Tensor, workers: Workers, bound: float) -> tuple[Tensor, Tensor]:
        ctx.dtypes = lse.dtype, read.dtype
        lse, read = lse.double(), read.double()
        shift = torch.zeros_like(lse)
        if not bound <= SAFE_LSE:
            highest = workers.highest("maximum of scores", lse)
            shift = torch.where(highest.isinf(), shift, highest)
        weight = (lse - shift).exp()
        total, reads = workers.sum("sum of states", [weight, weight[..., None] * read])
        empty = total == 0
        total = torch.where(empty, 1.0, total)
        whole = torch.where(empty, float("-inf"), shift + total.log()), reads / total[..., None]
        ctx.save_for_backward(lse, read, *whole)
        return whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dlse: Tensor, dread: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        lse, read, whole, wholly = ctx.saved_tensors
        # This worker's share of the softmax; nothing is a share of nothing.
        share = torch.where(whole.isinf(), 0.0, (lse - whole).exp())
        own = share * (dlse + (dread * (read - wholly)).sum(-1))
        of_lse, of_read = ctx.dtypes
        return own.to(of_lse), (share[..., None] * dread).to(of_read), None, None


def exchange(group: dist.ProcessGroup, fact: object, device: torch.device) -> list[Any]:
    """What every worker says, by rank: anything that JSON can hold, and so nothing that can run."""
    text = torch.tensor(list(json.dumps(fact).encode()), dtype=torch.uint8, device=device)
    # Room to spare: how many digits a number has is not to change how much is sent.
    text = torch.cat([text, text.new_full((-len(text) % TEXT_UNIT,), ord(" "))])
    size = dist.get_world_size(group)
    length = torch.tensor([text.numel()], device=device)
    lengths = [torch.zeros_like(length) for _ in range(size)]
    collect(group, "exchange of what each was given", length, lambda: dist.all_gather(lengths, length, group=group))
    longest = max(int(n) for n in lengths)
    padded = torch.cat([text, text.new_zeros(longest - text.numel())])
    texts = [torch.zeros_like(padded) for _ in range(size)]
    collect(group, "exchange of what each was given", padded, lambda: dist.all_gather(texts, padded, group=group))
    return [json.loads(bytes(t[: int(n)].tolist())) for t, n in zip(texts, lengths, strict=True)]


def collect(group: dist.ProcessGroup, what: str, tensor: Tensor, call: Callable[[], object]) -> None:
    """Do the collective `call`, count `tensor` as sent, and say who waited for what where it fails.

    Raises `GroupError`.
    """
    for sent in _COUNTS:
        sent.bytes += tensor.nbytes
        sent.collectives += 1
    try:
        call()
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise GroupError(
            f"rank {dist.get_rank(group)} of {dist.get_world_size(group)} waited for the {what} in vain: "
            "another worker has most likely died, or was not there within the group's timeout. Look for the first "
            "error among the workers, put it right and start all of them again; where a worker is only slow, give "
            f"init_process_group a longer timeout. The group says: {reason}"
        ) from error
