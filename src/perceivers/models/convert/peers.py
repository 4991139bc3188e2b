"""Models of other libraries' state dicts, as far as a spec can say them: which library, and what the weights tell.

Shapes tell most of a spec. What they do not tell, such as heads, comes from settings beside the weights or is given;
what is given may not contradict what the weights tell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perceivers.errors import ModelError, SpecError
from perceivers.models.build import build, fill
from perceivers.models.convert import families
from perceivers.models.convert.krasserm import krasserm_entries, krasserm_spec
from perceivers.models.convert.mapping import Entry, state_dict
from perceivers.models.convert.perceiver_pytorch import io_entries, io_spec, perceiver_entries, perceiver_spec
from perceivers.models.convert.stored import Stored
from perceivers.models.model import Model
from perceivers.models.spec import Spec, as_spec


@dataclass(frozen=True)
class Peer:
    """One sort of model.

    told: the part of a spec that the stored weights tell, as plain data; it is given what else is known.
    entries: the places of a model's tensors, and what is stored as those want it.
    needed: dotted keys of what must be known besides, and what that is called there.
    """

    told: Callable[[Stored, Mapping[str, Any]], dict[str, Any]]
    entries: Callable[[Model, Stored], tuple[list[Entry], Stored]]
    needed: Mapping[str, str]


_PARTS = ("inputs", "latents", "encoder", "decoder", "outputs")
_HEADS = {"encoder.cross.heads": "cross_heads", "encoder.self_attend.heads": "latent_heads"}
_KRASSERM = Peer(
    krasserm_spec,
    krasserm_entries,
    {
        "encoder.cross.heads": "num_cross_attention_heads",
        "encoder.self_attend.heads": "num_self_attention_heads",
        "encoder.blocks": "num_self_attention_blocks",
        "encoder.cross_attends": "num_cross_attention_layers",
        "decoder.heads": "num_cross_attention_heads of the decoder",
    },
)
PEERS: dict[str, Peer] = {
    families.PYTORCH: Peer(perceiver_spec, perceiver_entries, _HEADS),
    families.PYTORCH_IO: Peer(io_spec, io_entries, {**_HEADS, "decoder.heads": "cross_heads", "outputs": "queries"}),
    families.KRASSERM_IMAGE: _KRASSERM,
    families.KRASSERM_TEXT: _KRASSERM,
    families.KRASSERM_MASKED: _KRASSERM,
}
# Models that are recognised, and that no spec can say.
REFUSED: dict[str, str] = {
    families.PYTORCH_LM: "its queries are the embedded tokens themselves, with which no output here asks",
    families.KRASSERM_FLOW: "its weights are DeepMind's; import those, or the transformers folder that they are from",
    families.KRASSERM_AR: "its latents start as the tokens and are read through the norm of the queries, and its "
    "rotary angles are another formula's; the Perceiver AR here is the official one",
}


def is_peer(stored: Stored) -> bool:
    """Whether the weights are of a library that is known, importable or not."""
    return stored.family in PEERS or stored.family in REFUSED


def peer_model(stored: Stored, given: Mapping[str, Any]) -> Model:
    """The model with the stored weights, in evaluation mode. given: as of `peer_spec`, and raises as that does.

    Raises `ModelError` that names the first missing, extra and mis-shaped array.
    """
    spec = peer_spec(stored, given)
    model = build(spec, device="meta")
    places, changed = PEERS[stored.family].entries(model, stored)
    known = {place.ours for place in places}
    for name in model.state_dict():
        if name not in known:
            raise ModelError(
                f"'{stored.path}' holds nothing for {name} of this spec; a {stored.family} has no such weights."
            )
    fill(model, state_dict(model, changed, places))
    return model.eval()


def peer_spec(stored: Stored, given: Mapping[str, Any]) -> Spec:
    """What the weights tell and what is `given` besides, part of a spec in plain data, in one.

    Raises `ModelError` for a model that cannot be expressed, with the reason; `SpecError` for what is missing in
    `given` or contradicts the weights.
    """
    if stored.family in REFUSED:
        raise ModelError(f"'{stored.path}', {stored.family}, cannot be imported: {REFUSED[stored.family]}.")
    peer = PEERS[stored.family]
    _check_mappings(given)
    merged = _merged(given, peer.told(stored, given), "")
    missing = [f"{key} ({theirs} there)" for key, theirs in peer.needed.items() if not _known(merged, key)]
    if missing:
        raise SpecError(
            f"the weights in '{stored.path}' do not tell {', '.join(missing)}; give these in a YAML file (--spec FILE)."
        )
    return as_spec(merged, "the spec of these weights")


def _check_mappings(given: Mapping[str, Any]) -> None:
    """Raise `SpecError` where a part, or an input or output, is no mapping."""
    parts = {key: given[key] for key in _PARTS if key in given}
    for key in ("inputs", "outputs"):
        if isinstance(parts.get(key), Mapping):
            parts |= {f"{key}.{name}": kind for name, kind in parts[key].items()}
    for place, part in parts.items():
        if not isinstance(part, Mapping):
            raise SpecError(
                f"{place} is given as {part!r:.80}; wanted a mapping of names to values. Leave it out to take what the "
                "weights tell."
            )


def _merged(given: Mapping[str, Any], told: Mapping[str, Any], place: str) -> dict[str, Any]:
    found = {**told, **given}
    for key in given.keys() & told.keys():
        mine, theirs = given[key], told[key]
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found[key] = _merged(mine, theirs, f"{place}{key}.")
        elif mine != theirs and not (isinstance(mine, (list, tuple)) and list(mine) == theirs):
            raise SpecError(f"{place}{key} is given as {mine!r}, but the weights say {theirs!r}; leave it out.")
    return found


def _known(data: Any, dotted: str) -> bool:
    for key in dotted.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data is not None
