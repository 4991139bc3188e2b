"""The model: `encode` a batch into latents, `decode` latents into predictions; `forward` is their composition."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from perceivers.cells import is_missing
from perceivers.elements import Batch, Elements
from perceivers.errors import DataError, SpecError, unknown
from perceivers.inputs import Input, unknown_input
from perceivers.models.fusion import Fusion
from perceivers.models.sharding import own_share
from perceivers.models.spec import Spec
from perceivers.nn import AverageDecoder, Decoder, Encoder
from perceivers.nn.hierarchical import Hierarchical, Levels
from perceivers.nn.lifted import Lifted
from perceivers.nn.streamed import Gathered, Streamed
from perceivers.outputs import Context, Output
from perceivers.outputs.base import cell_numbers
from perceivers.sources import Source

# Declared one by one, so that a caller who knows which one it is still knows it afterwards.
Part = TypeVar("Part", Lifted, Streamed, Lifted | Streamed)


# Without gradients, queries of all samples that are answered at once: their widest arrays then take a few hundred MB.
QUERIES_AT_ONCE = 2**15
# An input that was absent in a smaller share of the training samples counts as one that the model cannot do without.
SELDOM = 0.01


@dataclass(frozen=True)
class Trained:
    """What is known of a model's training, saved with it.

    absent: by input, the share of training samples that were without it, in the data or by input dropout; an input that
    is not named was always there. splits: a digest of each split of the data, by name. begun_with: in lines, the model
    whose weights it began with, and which; none when all were drawn.
    """

    absent: Mapping[str, float]
    splits: Mapping[str, str]
    begun_with: tuple[str, ...] = ()

    def untried(self, inputs: Iterable[str]) -> list[str]:
        """Those of `inputs` whose absence the model saw never or too seldom to have learned to do without."""
        return [name for name in inputs if self.absent.get(name, 0.0) < SELDOM]


class Model(nn.Module):
    """A Perceiver over named inputs and outputs. Made by `perceivers.build` or `perceivers.load`.

    Any input may be absent (left out of the batch), masked in part, or NaN.
    """

    def __init__(
        self,
        spec: Spec,
        inputs: Mapping[str, Input],
        fusion: Fusion | None,
        encoder: Encoder | Hierarchical,
        outputs: Mapping[str, Output],
        query_fusion: Fusion | None,
        decoder: Decoder | AverageDecoder,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.inputs = nn.ModuleDict({name: inputs[name] for name in sorted(inputs)})
        self.fusion = fusion
        self.encoder = encoder
        self.outputs = nn.ModuleDict({name: outputs[name] for name in sorted(outputs)})
        self.query_fusion = query_fusion
        self.decoder = decoder
        self.trained: Trained | None = None

    def forward(
        self,
        batch: "Batch | Mapping[str, Any] | Sequence[Mapping[str, Any]]",
        group: ProcessGroup | None = None,
        points: Mapping[str, Sequence[int] | Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Predictions by output name, each (B, …): logits, numbers on the standardised scale, or what the kind says.

        points: as `decode` takes them.
        """
        batch = self.collated(batch)
        # What is asked with too is lifted once: a stem's batch norm would count it twice.
        asked = self._asked_with(self.outputs, batch, batch.size)
        latents = self._encoded(batch, asked, group)
        contexts = self.contexts(list(self.outputs), self._read(latents), batch, points or {}, asked)
        return self._decoded(latents, contexts)

    def drawn(self, size: int) -> dict[str, Tensor]:
        """For a training step on `size` samples: (size, n) numbers of queries of each output with `sampled` ones.

        Each is as likely; for speed they are drawn one by one, so that one may come twice.
        """
        found = {}
        for name in self.outputs:
            output = self.output_module(name)
            if output.sampled is not None:
                found[name] = torch.randint(output.count({}), (size, output.sampled), device=self.device)
        return found

    def encode(
        self, batch: "Batch | Mapping[str, Any] | Sequence[Mapping[str, Any]]", group: ProcessGroup | None = None
    ) -> Tensor | Levels:
        """Latents (B, N, D) of a `Batch`, or of one raw sample, or of a list of raw samples (see `collate`).

        A hierarchical encoder gives two arrays of them, `Levels`.

        group: its processes read one sample together, each its rows of every `Source` (see `sharding.own_share`). All
        call this with the same inputs, and all get the same latents; backward, the same gradients.
        """
        return self._encoded(batch, {}, group)

    def _encoded(self, batch: Any, ready: Mapping[str, Lifted], group: ProcessGroup | None) -> Tensor | Levels:
        """As `encode`. ready: elements of inputs that are lifted already."""
        if isinstance(self.encoder, Hierarchical):
            return self._levels(self.encoder, self.collated(batch), ready, group)
        if group is not None and self.fusion is not None and self.fusion.masking:
            raise SpecError("a model with encoder.masking is read by one process: each would add elements of its own.")
        if group is None:
            given = batch = self.collated(batch)
        else:
            given, batch = own_share(self, batch, group)
        parts = tuple(self.lifted(batch, ready).values())
        if not parts:
            channels = self.fusion.channels if self.fusion else next(iter(self.inputs.values())).channels
            parts = (Lifted(self.encoder.latents.new_zeros(batch.size, 0, int(channels))),)  # pyright: ignore[reportArgumentType]
        latents = self.encoder(Gathered(parts, group))
        for name, source in given.sources.items():
            source.masked = batch.sources[name].masked
        return latents

    def _levels(
        self, encoder: Hierarchical, batch: Batch, ready: Mapping[str, Lifted], group: ProcessGroup | None
    ) -> Levels:
        if batch.sources or group is not None:
            what = "in parts by a group of processes" if group is not None else "from a source"
            raise SpecError(
                f"a hierarchical encoder has a place in a group for every element, so inputs cannot be read {what}; "
                "give them whole, or set encoder.kind: perceiver."
            )
        parts = self.lifted(batch, ready)
        return encoder({name: part for name, part in parts.items() if isinstance(part, Lifted)}, batch.size)

    @property
    def perceiver(self) -> Encoder:
        """The encoder of a Perceiver. Raises `SpecError` for another kind, which what asks for it cannot handle."""
        if not isinstance(self.encoder, Encoder):
            raise SpecError(f"encoder.kind is {self.spec.encoder.kind}, and this needs a perceiver.")
        return self.encoder

    def lifted(self, batch: Batch, ready: Mapping[str, Lifted] | None = None) -> dict[str, Lifted | Streamed]:
        """What the encoder reads of each input of `batch` that is there, in sorted order of the names.

        ready: elements of inputs that are lifted already.
        """
        ready = ready or {}
        for name in [*batch.inputs, *batch.sources]:
            if name not in self.inputs:
                raise unknown("input", name, self.inputs, DataError)
        present = {name: batch.inputs[name] for name in self.inputs if name in batch.inputs}
        # An input without elements is an absent one: both take the same path, and the same bits come out.
        read: dict[str, Lifted | Streamed] = {
            name: ready[name] if name in ready else self._lift(name, elements)
            for name, elements in present.items()
            if elements.values.shape[1]
        }
        read |= {name: self._stream(name, source) for name, source in batch.sources.items()}
        found = {name: self.extended(name, read[name]) for name in self.inputs if name in read}
        return found if self.fusion is None else self._hidden(found, batch.size)

    def _hidden(self, found: dict[str, Lifted | Streamed], size: int) -> dict[str, Lifted | Streamed]:
        """The same with elements replaced as `encoder.masking` says; an input hidden in use needs not be there."""
        assert self.fusion is not None, "of several inputs"
        for name in self.fusion.masking:
            part = found.get(name)
            if self.fusion.hides(name):
                stand_ins = self.fusion.hidden(name, size, self.spec.inputs[name].elements())
                found[name] = self.fusion.shown(name, part, stand_ins) if self.training else stand_ins
            elif self.training and self.fusion.masking[name].training and part is not None:
                found[name] = self.fusion.masked(name, part)
        return {name: found[name] for name in self.inputs if name in found}

    def extended(self, name: str, part: Part) -> Part:
        """The lifted elements of that input as the encoder reads them: where inputs are fused, with its embedding."""
        return part if self.fusion is None else part.extended(self.fusion.embeddings[name])  # pyright: ignore[reportReturnType]

    def decode(
        self,
        latents: Tensor | Levels,
        outputs: Iterable[str] | None = None,
        chunk: int | None = None,
        batch: "Batch | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None" = None,
        points: Mapping[str, Sequence[int] | Tensor] | None = None,
        advance: Callable[[str, int, int], None] | None = None,
    ) -> dict[str, Tensor]:
        """Predictions of the named outputs (default: all). At most `chunk` queries at once; any gives the same.

        chunk: None is all of them where gradients are wanted, else as many as `QUERIES_AT_ONCE` of all samples. batch:
        what was encoded; wanted only by outputs that ask with the elements of an input. points: of an output on a grid,
        the numbers of the cells to ask for, (points,) or of each sample its own (B, points); its prediction is then
        (B, points, …). advance: told of each output on a grid how many of its queries are answered, of how many.
        """
        read, names = self._read(latents), self._names(outputs)
        return self._decoded(latents, self.contexts(names, read, batch, points or {}), chunk, advance)

    def _decoded(
        self,
        latents: Tensor | Levels,
        contexts: Mapping[str, Context],
        chunk: int | None = None,
        advance: Callable[[str, int, int], None] | None = None,
    ) -> dict[str, Tensor]:
        if chunk is None and not torch.is_grad_enabled():
            chunk = max(QUERIES_AT_ONCE // max(latents.shape[0] if isinstance(latents, Tensor) else 1, 1), 1)
        read = self._read(latents)
        again = {name: source for name in contexts if (source := self.spec.outputs[name].again) is not None}
        asking = {n: context for n, context in contexts.items() if n not in again}
        answers = self._answers(asking, read, chunk, advance or (lambda name, done, total: None))
        if again:
            assert isinstance(self.encoder, Hierarchical) and isinstance(latents, Levels), "the spec is valid"  # noqa: PT018
            answers |= {name: self.encoder.again(latents, source) for name, source in again.items()}
        return {name: self.output_module(name).predict(answers[name], context) for name, context in contexts.items()}

    def _read(self, latents: Tensor | Levels) -> Tensor:
        """The latents that the decoder reads: of a hierarchy those of the centre, or the last ones to be averaged."""
        if isinstance(self.encoder, Hierarchical):
            if not isinstance(latents, Levels):
                raise DataError(f"decode wants the Levels that encode gives; got a {type(latents).__name__}.")
            return latents.final.flatten(1, 2) if isinstance(self.decoder, AverageDecoder) else latents.centre
        wanted = (self.spec.latents.count, self.spec.latents.channels)
        if not isinstance(latents, Tensor) or latents.ndim != 3 or latents.shape[1:] != wanted:
            given = tuple(latents.shape) if isinstance(latents, Tensor) else f"a {type(latents).__name__}"
            raise DataError(f"decode wants latents (B, {wanted[0]}, {wanted[1]}), as encode gives them; got {given}.")
        return latents

    def _answers(
        self,
        contexts: Mapping[str, Context],
        latents: Tensor,
        chunk: int | None,
        advance: Callable[[str, int, int], None],
    ) -> dict[str, Tensor]:
        if isinstance(self.decoder, AverageDecoder):
            mean: Tensor = self.decoder(latents)
            return dict.fromkeys(contexts, mean)
        queries = {name: self.queries(name, context) for name, context in contexts.items()}
        readers = {name: self.output_module(name).reader(context) for name, context in contexts.items()}
        # With gradients arrays of all kinds are asked together; without, the decoder draws a reader into itself.
        together = {
            name: asked
            for name, asked in queries.items()
            if isinstance(asked, Tensor) and (torch.is_grad_enabled() or readers[name] is None)
        }
        found: dict[str, Tensor] = {}
        for name in [name for name in queries if name not in together]:
            asked, parts, done = queries[name], [], 0
            total = (asked.content if isinstance(asked, Lifted) else asked).shape[1]
            for part in self.decoder.parts(asked, latents, chunk=chunk, reader=readers[name]):
                parts.append(part)
                done += part.shape[1]
                advance(name, done, total)
            found[name] = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        if together:
            answers = self.decoder(torch.cat(list(together.values()), dim=1), latents, chunk=chunk)
            parts = answers.split([asked.shape[1] for asked in together.values()], dim=1)
            for name, part in zip(together, parts, strict=True):
                reader = readers[name]
                found[name] = part if reader is None else reader(part)
        return found

    def _asked_with(self, names: Iterable[str], batch: Any, size: int) -> dict[str, Lifted]:
        """The elements that those outputs ask with; an absent input is read as one that is masked whole."""
        asked = {given: name for name in names for given in self.spec.outputs[name].asks_with}
        if asked and batch is None:
            given, name = next(iter(asked.items()))
            raise DataError(
                f"output '{name}' asks with input '{given}'; give what was encoded: decode(latents, batch=batch)."
            )
        batch, read = self.collated(batch) if asked else None, {}
        for given, name in asked.items():
            assert batch is not None, "given where an output asks with it"
            if given in batch.sources:
                raise DataError(f"output '{name}' asks with input '{given}', which it cannot read from a source.")
            elements = batch.inputs.get(given) or self.spec.inputs[given].collate([None] * size).to(self.device)
            read[given] = self._lift(given, elements)
        return read

    def contexts(
        self,
        names: Sequence[str],
        latents: Tensor,
        batch: Any,
        points: Mapping[str, Sequence[int] | Tensor],
        asked: Mapping[str, Lifted] | None = None,
    ) -> dict[str, Context]:
        """What each of those outputs asks with. asked: the elements that are asked with, where they are lifted."""
        size = latents.shape[0]
        read = self._asked_with(names, batch, size) if asked is None else asked
        for name in points:
            if name not in names or not self.spec.outputs[name].parted:
                known = [n for n in names if self.spec.outputs[n].parted]
                raise unknown("output whose points can be asked for", name, known, DataError)
        chosen = {name: cell_numbers(name, cells).to(self.device) for name, cells in points.items()}
        shared = Context(size, dict(self.inputs.items()), read, None, latents)
        return {name: shared._replace(points=chosen.get(name)) for name in names}

    def _names(self, outputs: Iterable[str] | None) -> list[str]:
        names = list(self.outputs) if outputs is None else sorted(outputs)
        for name in names:
            if name not in self.outputs:
                raise unknown("output", name, self.outputs)
        return names

    def collated(self, batch: "Batch | Mapping[str, Any] | Sequence[Mapping[str, Any]]") -> Batch:
        """A `Batch` whose inputs are all known, from whatever `encode` takes."""
        if not isinstance(batch, Batch):
            batch = self.collate([batch] if isinstance(batch, Mapping) else batch)
        for name in [*batch.inputs, *batch.sources]:
            if name not in self.inputs:
                raise unknown("input", name, self.inputs, DataError)
        return batch

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """A `Batch` from raw samples: input name → raw value. What is left out, None, NaN or empty is absent.

        A value may be a `Source` when there is one sample.
        """
        for sample in samples:
            for name in sample:
                if name not in self.inputs:
                    raise unknown_input(name, self.spec.inputs)
        sources = {name: value for sample in samples for name, value in sample.items() if isinstance(value, Source)}
        parsed = {
            name: [None if is_missing(s.get(name)) else kind.parse(s[name]) for s in samples]
            for name, kind in self.spec.inputs.items()
            if name not in sources
        }
        inputs = {
            n: self.spec.inputs[n].collate(column) for n, column in parsed.items() if any(s is not None for s in column)
        }
        return Batch(inputs, len(samples), sources=sources).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def output_module(self, name: str) -> Output:
        """The output module of that name."""
        output = self.outputs[name]
        assert isinstance(output, Output), "outputs are Outputs"
        return output

    def _lift(self, name: str, elements: Elements) -> Lifted:
        read = elements.finite()
        if read is not elements and self.spec.inputs[name].nan == "error":
            raise DataError(
                f"input '{name}' holds NaN or infinity and 'nan: error' is set; repair it, or set nan: mask."
            )
        return self.inputs[name](read)

    def check_passes(self, name: str, source: Source) -> None:
        """Raises `DataError` where a source can be read once and the model reads more often."""
        crosses = sum(step == "cross" for step, _ in self.perceiver.order)
        if source.once and crosses > 1:
            raise DataError(
                f"input '{name}', {source.name}: an iterator can be read once, but the model has {crosses} "
                "cross-attends; give a function that begins a new pass."
            )

    def _stream(self, name: str, source: Source) -> Streamed:
        kind, module = self.spec.inputs[name], self.inputs[name]
        self.check_passes(name, source)
        grid = kind.source_grid(source)
        assert isinstance(module, Input), "inputs are Inputs"
        return module.stream(source, grid, kind.nan)

    def queries(self, name: str, context: Context) -> Tensor | Lifted:
        """What the output of that name asks: (B, O, E), where outputs are fused with its embedding."""
        queries = self.output_module(name).queries(context)
        if self.query_fusion is None:
            return queries
        if isinstance(queries, Lifted):
            return queries.extended(self.query_fusion.embeddings[name])
        return self.query_fusion.pad(name, queries)

    def save(self, folder: "str | Path") -> Path:
        """Write a model directory that `perceivers.load` opens; see `perceivers.models.weights.save`."""
        from perceivers.models.weights import save

        return save(self, Path(folder))
