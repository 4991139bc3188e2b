"""Batches as a pure function of (seed, step): the same for any number of workers, and after any resume."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from perceivers.data.hiding import HIDE, hide
from perceivers.data.mix import MixSettings, mix_images
from perceivers.data.prepare import Split
from perceivers.data.reader import Row
from perceivers.elements import Batch
from perceivers.errors import SpecError, near_miss
from perceivers.inputs import KINDS as INPUTS
from perceivers.inputs import InputSettings, Sample, Seed
from perceivers.outputs import KINDS as OUTPUTS
from perceivers.outputs import OutputSettings
from perceivers.settings import Settings

# Ends the seed of mixing. Numpy takes (7, 0) and (7, 0, 0) for one seed, so without it some draws would be those of the
# order of rows or of input dropout.
_MIX = 1


@dataclass(frozen=True)
class Key:
    """Which batch: its step in the whole run, its epoch, and the rows in it."""

    step: int
    epoch: int
    rows: tuple[int, ...]


class Order(Sampler[Key]):
    """The keys of steps `start` to `stop`: every epoch a fresh permutation drawn from (seed, epoch).

    The last batch of an epoch may be smaller; every row is seen once an epoch.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, start: int, stop: int) -> None:
        self.rows, self.batch_size, self.seed, self.start, self.stop = rows, batch_size, seed, start, stop
        self.steps_per_epoch = -(-rows // batch_size)

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    def __iter__(self) -> Iterator[Key]:
        epoch, order = -1, np.zeros(0, np.int64)
        for step in range(self.start, self.stop):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
            first = step % self.steps_per_epoch * self.batch_size
            yield Key(step, epoch, tuple(order[first : first + self.batch_size].tolist()))


class Augmenter:
    """Augments the samples of the named inputs; each draw is seeded by (seed, epoch, row)."""

    def __init__(
        self,
        inputs: Mapping[str, InputSettings],
        settings: Mapping[str, Settings],
        seed: int,
        outputs: Mapping[str, OutputSettings] | None = None,
    ) -> None:
        self.seed = seed
        self.changes = {name: _change(name, inputs, setting) for name, setting in settings.items()}
        self.companions = {name: inputs[name].companions(setting) for name, setting in settings.items()}
        self.followers = {name: _followers(name, inputs, self.changes[name], outputs or {}) for name in settings}
        self.whole = frozenset(name for name, setting in settings.items() if inputs[name].augments_whole(setting))

    def __call__(self, row: Row, epoch: int, index: int, split: Split | None = None) -> Row:
        """The row with its named inputs augmented, and targets that lie on them; absent ones stay absent.

        split: where it and companions are from.
        """
        if not self.changes:
            return row
        inputs, targets = dict(row.inputs), dict(row.targets)
        for number, name in enumerate(sorted(self.changes), start=1):
            sample, seed, change = inputs[name], (self.seed, epoch, index, number), self.changes[name]
            if sample is None:
                continue
            if followers := self.followers[name]:
                inputs[name], moved = change.with_targets(sample, seed, [targets[n] for n in followers])  # pyright: ignore[reportFunctionMemberAccess]
                targets |= zip(followers, moved, strict=True)
            else:
                inputs[name] = change(sample, seed, *self._others(name, seed, split))
        return replace(row, inputs=inputs, targets=targets)

    def _others(self, name: str, seed: Seed, split: Split | None) -> Sequence[Sequence[Sample]]:
        """The further argument of a change that wants companions: samples of that input, of rows drawn from `split`."""
        count = self.companions[name]
        if not count:
            return ()
        assert split is not None, "companions come from the split"
        rows = np.random.default_rng((*seed, 1)).integers(len(split), size=count)
        found = (split.sample(int(row), name) for row in rows)
        return ([sample for sample in found if sample is not None],)


def _change(name: str, inputs: Mapping[str, InputSettings], setting: Settings) -> Callable[..., Sample]:
    """What changes samples of the input `name`. Raises `SpecError` where there is none, or it is of another kind."""
    if name not in inputs:
        raise SpecError(f"augmentation names '{name}', which is no input.{near_miss(name, inputs)}")
    kind = inputs[name]
    if kind.augmentation is None or not isinstance(setting, kind.augmentation):
        raise SpecError(f"augmentation of '{name}' does not fit its kind, {kind.kind}.")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return kind.augmenter(setting)
    except SpecError as error:
        raise SpecError(f"augmentation of '{name}': {error}") from None


def _followers(
    name: str, inputs: Mapping[str, InputSettings], change: Any, outputs: Mapping[str, OutputSettings]
) -> list[str]:
    """The outputs whose targets lie on that input. Raises `SpecError` where its change would leave them behind."""
    if not inputs[name].moves_targets:
        return []
    found = [output for output, kind in outputs.items() if kind.laid_on == name]
    for output in found:
        if not inputs[name].augments_targets:
            raise SpecError(
                f"augmentation of '{name}' would move its pixels, but not the target of '{output}', which lies on "
                "them; leave it out."
            )
        if change.reverses and not outputs[output].both_ways:
            raise SpecError(
                f"augmentation of '{name}' reverses pairs, but the target of '{output}' is not known the other way; "
                f"set reverse: 0, or name the column with the flow backward: outputs.{output}.backward."
            )
    return found


class Batches(Dataset[Batch]):
    """`split` as batches: `batches[key]` reads, augments, collates and mixes."""

    def __init__(self, split: Split, augmenter: Augmenter | None = None, mix: MixSettings | None = None) -> None:
        whole = augmenter.whole if augmenter is not None else frozenset()
        self.split = split.read_whole(whole) if whole else split
        self.augmenter = augmenter
        self.mix = mix if mix is not None and (mix.mixup or mix.cutmix) else None
        if self.mix is not None:
            self._check_mix()

    def __getitem__(self, key: Key) -> Batch:
        rows = [self._row(key.epoch, index) for index in key.rows]
        batch = collate(rows, self.split.reader.inputs, self.split.reader.outputs)
        return batch if self.mix is None else self._mixed(batch, key)

    def _row(self, epoch: int, index: int) -> Row:
        """A row as the model is to see it: augmented in training, and with hidden what an output is to guess."""
        row, outputs = self.split[index], self.split.reader.outputs
        if self.augmenter is None:
            return hide(row, self.split.reader.inputs, outputs, None)
        row = self.augmenter(row, epoch, index, self.split)
        return hide(row, self.split.reader.inputs, outputs, (self.augmenter.seed, epoch, index, 0, HIDE))

    def _check_mix(self) -> None:
        inputs, outputs = self.split.reader.inputs.values(), self.split.reader.outputs.values()
        if len(inputs) != 1 or not all(kind.mixable for kind in [*inputs, *outputs]):
            one, several = (" or ".join(n for n, kind in k.items() if kind.mixable) for k in (INPUTS, OUTPUTS))
            raise SpecError(
                f"mixup and cutmix need exactly one input, of kind {one}, and only outputs of kind {several}."
            )

    def _mixed(self, batch: Batch, key: Key) -> Batch:
        """The batch with every sample mixed that is whole and whose targets are known; the others stay as they are."""
        assert self.mix is not None, "only called with a mix"
        assert self.augmenter is not None, "the augmenter knows the seed"
        if not batch.inputs:
            return batch
        ((name, elements),) = batch.inputs.items()
        assert elements.grid is not None, "what can be mixed lies on a grid"
        soft = {output: self.split.reader.outputs[output].soft(target) for output, target in batch.targets.items()}
        whole = torch.ones(batch.size, dtype=torch.bool) if elements.mask is None else elements.mask.all(1)
        for target in soft.values():
            whole = whole & (target.sum(-1) > 0)
        rows = whole.nonzero().flatten()
        cells = elements.values.float().unflatten(1, elements.grid)
        some = {output: target[rows] for output, target in soft.items()}
        mixed, shared = mix_images(cells[rows], some, self.mix, (self.augmenter.seed, key.epoch, key.step, 0, _MIX))
        values = cells.index_copy(0, rows, mixed).flatten(1, 2)
        targets = {output: target.index_copy(0, rows, shared[output]) for output, target in soft.items()}
        return Batch({name: replace(elements, values=values)}, batch.size, targets)


def collate(rows: Sequence[Row], inputs: Mapping[str, InputSettings], outputs: Mapping[str, OutputSettings]) -> Batch:
    """Parsed rows as a `Batch`. An input that no row has is left out: it contributes no elements at all."""
    columns = {name: [row.inputs[name] for row in rows] for name in inputs}
    present = {name: column for name, column in columns.items() if any(s is not None for s in column)}
    elements = {name: inputs[name].collate(column) for name, column in present.items()}
    targets = {}
    for name, kind in outputs.items():
        if kind.of_input is None or kind.hides:
            targets[name] = kind.collate([_target(row, name, kind, inputs) for row in rows])
        else:
            whole = elements.get(kind.of_input)
            absent = inputs[kind.of_input].collate(columns[kind.of_input]) if whole is None else whole
            targets[name] = kind.target_of(absent)
    return Batch(elements, len(rows), targets)


def _target(row: Row, name: str, kind: OutputSettings, inputs: Mapping[str, InputSettings]) -> Any:
    """The target of a row; of one that continues the row's input, or lies on it, as far as that is read."""
    if kind.laid_on is not None:
        laid = inputs.get(kind.laid_on)
        aligned = (lambda target: target) if laid is None else laid.aligned
        return kind.matched(row.targets[name], row.inputs.get(kind.laid_on), aligned)
    if not kind.continues:
        return row.targets[name]
    lengths = [0 if sample is None else len(sample.values) for sample in row.inputs.values()]
    return kind.following(row.targets[name], max(lengths, default=0))


def training_loader(batches: Batches, order: Order, workers: int) -> DataLoader[Batch]:
    """Batches in the order of `order`, prepared by `workers` processes (0: this one)."""
    return DataLoader(
        batches,
        sampler=order,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_signals,
        # Of its own: the loader draws a seed for its workers, and must not take it from the run's random state.
        generator=torch.Generator(),
    )


def _leave_signals(worker: int) -> None:
    """Terminals and schedulers signal every process of a run; the first one ends its step, saves, and ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere a SIGTERM to a worker ends the run at its last checkpoint
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    """SIGTERM from the run itself, which is how it ends a worker that it no longer needs, is obeyed."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        continue
    os._exit(0)


def evaluation_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """The whole split in table order."""
    batches = Batches(split)
    for first in range(0, len(split), batch_size):
        yield batches[Key(0, 0, tuple(range(first, min(first + batch_size, len(split)))))]
