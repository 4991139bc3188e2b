"""Vectors of Perceiver AR (`ar_*`): logits, masks, caches, generated tokens, and functions on their own."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.convert.autoregressive import autoregressive_entries, spec_of_config
from perceivers.models.convert.deepmind import IGNORED
from perceivers.models.convert.mapping import Entry, assembled
from perceivers.models.convert.stored import Stored, quoted, refused
from perceivers.models.model import Model
from perceivers.nn.autoregressive import Autoregressive
from perceivers.nn.generation import CachedSteps, Sampling, allowed, generate
from perceivers.nn.kv_cache import Memory
from perceivers.nn.rotary import Rotary, rotary_tables
from perceivers.nn.token_loss import token_losses
from perceivers.nn.tokens import positions_from_end
from perceivers.positions import sinusoidal_features

_INPUT, _OUTPUT = "input/", "output/"
# The coefficients that the recorded losses were made with.
_Z_LOSS, _SMOOTHING = 1e-4, 0.1


def recomputed_autoregressive(stored: Stored) -> dict[str, Tensor]:
    """Recorded output → what our model gives, for every output in a recording of Perceiver AR that is known.

    The model is built from the recording's config and parameters, through its spec. Logits of latents whose place is −1
    mean nothing. Raises `ModelError` for a config or parameters that do not fit, and for an input that is missing.
    """
    config = _Held(stored, "config: ", stored.extra["config"])
    inputs = _Held(
        stored,
        _INPUT,
        {n.removeprefix(_INPUT): _tensor(a.read()) for n, a in stored.arrays.items() if n.startswith(_INPUT)},
    )
    if any(array.trained for array in stored.arrays.values()):
        model = assembled(spec_of_config(config), stored, _entries, IGNORED)
        assert isinstance(model, AutoregressiveModel), "its encoder is autoregressive"
        known = _Recorded(model.core, config, inputs).outputs()
    else:
        known = _functional(config, inputs)
    found = {}
    for name in [n.removeprefix(_OUTPUT) for n in stored.arrays if n.startswith(_OUTPUT)]:
        compute = next((make for pattern, make in known.items() if re.fullmatch(pattern, name)), None)
        if compute is not None:
            found[name] = compute(name)
    return found


class _Held(dict[str, Any]):
    """What a recording holds of one sort; asking for what it lacks is a `ModelError`."""

    def __init__(self, stored: Stored, sort: str, held: Mapping[str, Any]) -> None:
        super().__init__(held)
        self.stored, self.sort = stored, sort

    def __missing__(self, name: str) -> Any:
        raise refused(self.stored.path, f"{quoted(self.sort + name)} is missing.")


def _entries(model: Model) -> list[Entry]:
    assert isinstance(model, AutoregressiveModel), "its encoder is autoregressive"
    return autoregressive_entries(model)


def _tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor if tensor.is_floating_point() else tensor.long()


class _Recorded:
    """The outputs of one recording; what several of them need is computed once."""

    def __init__(self, model: Autoregressive, config: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> None:
        self.model, self.config = model, config
        self.events = inputs["events"]
        self.positions = inputs.get("event_idxs") if config["use_positions_from_data"] else None
        self._stepped: tuple[CachedSteps, Tensor] | None = None

    def outputs(self) -> dict[str, Callable[[str], Tensor]]:
        return {
            "logits": lambda _: self.model(self.events, self.positions),
            "latent_last_steps": lambda _: self._places()[0].int(),
            "encoder_mask": lambda _: self._places()[1].cross[:, None].float(),
            "processor_mask": lambda _: self._places()[1].own[:, None].float(),
            "cached_logits": lambda _: self._steps()[1],
            "uncached_logits": lambda _: self._uncached(),
            "cross_(k|v|mask)": lambda name: self._memory(name, self._steps()[0].memories.cross[0], None),
            r"self\d+_(k|v|mask)": lambda name: self._memory(name, self._own(name), self._latents()),
            "events_(un)?cached": lambda name: self._generated(cache=name == "events_cached"),
        }

    def _places(self) -> Any:
        embedded = self.model.embedding(self.events, self.positions)
        encoder = self.model.encoder
        return encoder.places(embedded, encoder.latents // encoder.query.per_position)

    def _start(self) -> int:
        return int(self.config["start"])

    def _count(self) -> int:
        """How many times logits were recorded: behind the beginning, and behind each token that was added."""
        return len(self.config["memory_mask_fill"])

    def _steps(self) -> tuple[CachedSteps, Tensor]:
        """The cache after all tokens, and the logits on the way."""
        if self._stepped is None:
            context = int(self.config["max_context_length"])
            steps = CachedSteps(self.model, len(self.events), context, self.positions)
            ends = range(self._start(), self._start() + self._count())
            logits = [(steps.prefill if i == 0 else steps.step)(self.events[:, :end]) for i, end in enumerate(ends)]
            self._stepped = steps, torch.stack(logits, dim=1)
        return self._stepped

    def _uncached(self) -> Tensor:
        found = []
        for end in range(self._start(), self._start() + self._count()):
            positions = None if self.positions is None else self.positions[:, :end]
            found.append(self.model(self.events[:, :end], positions)[:, -1])
        return torch.stack(found, dim=1)

    def _generated(self, cache: bool) -> Tensor:
        start = self._start()
        count = self.events.shape[1] - start
        greedy = Sampling(temperature=0)
        found = generate(self.model, self.events[:, :start], count, greedy, cache=cache, positions=self.positions)
        return found.int()

    def _own(self, name: str) -> Memory:
        return self._steps()[0].memories.own[int(re.findall(r"\d+", name)[0])]

    def _latents(self) -> Tensor | None:
        """The positions of the latents that came, one behind the beginning and one with each token."""
        if self.positions is None:
            return None
        first = self._start() - 1
        return self.positions[:, first : first + self._count(), 0]

    def _memory(self, name: str, memory: Memory, positions: Tensor | None) -> Tensor:
        """Keys, values (B, S, H, d) or mask as the official memory holds them: newest last, keys not yet turned."""
        keys, values, kept = memory.in_order()
        if name.endswith("mask"):
            return kept.float().expand(len(keys), -1)
        own = name.startswith("self")
        heads = int(self.config["num_transformer_heads" if own else "num_cross_attend_heads"])
        if name.endswith("v"):
            return values.unflatten(-1, (heads, -1))
        rotary = self.model.encoder.rotary
        if rotary is not None and self.positions is not None:
            came = self._latents() if own else self.positions[:, : memory.seen, 0]
            assert came is not None, "rotary models have positions"
            came = came[:, -len(memory) :] + (rotary.ahead if own else 0)
            padded = torch.cat([came.new_zeros(len(came), memory.size - len(memory)), came], dim=1)
            keys = rotary(keys, -padded, heads)
        return keys.unflatten(-1, (heads, -1))


def _functional(config: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> dict[str, Callable[[str], Tensor]]:
    """Functions on their own: rotation, sinusoids, positions, losses, nucleus."""
    longest = float(config["max_wavelength"])

    def turned(fraction: float, heads: float = 1.0) -> Tensor:
        x = inputs["x"]
        return Rotary(longest, fraction, heads)(x.flatten(2), inputs["pos"], x.shape[2]).reshape(x.shape)

    def tables() -> tuple[Tensor, Tensor]:
        return rotary_tables(inputs["pos"], inputs["x"].shape[-1], longest)

    def sinusoids(name: str) -> Tensor:
        rows, channels = (int(number) for number in re.findall(r"\d+", name))
        return sinusoidal_features(torch.arange(rows, dtype=torch.float32), channels)

    def nucleus(name: str) -> Tensor:
        share, temperature = (float(number) for number in re.findall(r"\d+\.\d+|\d+", name))
        return allowed(inputs["logits"][0], Sampling(temperature=temperature, top_p=share))

    return {
        "rotary_full": lambda _: turned(1.0),
        "rotary_half": lambda _: turned(0.5),
        "rotary_quarter_twothirds_heads": lambda _: turned(0.25, 2 / 3),
        "cos": lambda _: tables()[0][:, None],
        "sin": lambda _: tables()[1][:, None],
        r"sinusoidal_len\d+_dim\d+": sinusoids,
        "terminal_relative": lambda _: positions_from_end(inputs["seq"] > 0).int(),
        "ce_z": lambda _: token_losses(inputs["logits"], inputs["targets"], z_loss=_Z_LOSS)[0],
        "z": lambda _: token_losses(inputs["logits"], inputs["targets"], z_loss=_Z_LOSS)[1],
        "ce_ls": lambda _: token_losses(inputs["logits"], inputs["targets"], _SMOOTHING)[0],
        r"top_p_[\d.]+_temp_[\d.]+": nucleus,
    }
