"""The authors' Hierarchical Perceiver: its configs and haiku parameters as ours, and its recorded outputs made anew.

Weights were never published; `weights verify` compares recordings of the code, with weights drawn at random. Names are
those of google-deepmind/hierarchical_perceiver (a1c4cd2).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perceivers.errors import ModelError, unknown
from perceivers.models.build_hierarchical import build_hierarchical
from perceivers.models.convert.stored import Stored, quoted, refused
from perceivers.models.spec_hierarchical import HierarchicalSpec
from perceivers.nn.groups import Regrouping, assign_groups, regroup, shares_of
from perceivers.nn.hierarchical import Hierarchical, Levels
from perceivers.nn.initialisers import plain_linear
from perceivers.nn.lifted import Lifted
from perceivers.settings import parse_settings

CLASSES = ("HiP", "HiPClassBottleneck", "PerceiverIO")

# Of a block; a Perceiver IO has one number of each, a hierarchy one a block.
_OF_BLOCKS = {
    "z_index_dim": "latents",
    "num_z_channels": "channels",
    "num_self_attends_per_block": "self_attends",
    "num_cross_attend_heads": "cross_heads",
    "num_self_attend_heads": "self_heads",
    "cross_attend_widening_factor": "cross_widening",
    "self_attend_widening_factor": "self_widening",
}
_OTHERS = {
    "cls",
    "num_groups",
    "num_embedding_channels",
    "num_position_encoding_channels",
    "regroup_type",
    "activation_name",
    "processor_index_dim_train",
    "processor_index_dim_eval",
    "z_index_dim_train",
    "z_index_dim_eval",
    "dropout_prob",
    "drop_path_rate",
    "label_modalities",
    "modality_order",
    "num_params",
    "name",
    "source",
}
_ATTENTION = {
    "query": "query_linear",
    "key": "key_linear",
    "value": "value_linear",
    "output": "attention_output_linear",
}
_MLP = {"hidden": "mlp_hidden_linear", "output": "mlp_output_linear"}
_CROSS_NORMS = {"query_norm": "layer_norm", "element_norm": "layer_norm_1", "mlp_norm": "layer_norm_2"}
_SELF_NORMS = {"norm": "layer_norm", "mlp_norm": "layer_norm_1"}
_CROSS = "hi_p_cross_attention"
_REGROUPED = re.compile(r"output/(regroup_(reshape|transpose)_(\d{1,6}))")


@dataclass(frozen=True)
class Published:
    """One model of theirs: its class, our settings, its modalities in order with (elements, channels)."""

    cls: str
    spec: HierarchicalSpec
    sizes: Mapping[str, tuple[int, int]]


class Autoencoder(nn.Module):
    """Their whole model: elements in, elements and latents out. Each modality's last linear starts at zero."""

    def __init__(self, published: Published) -> None:
        super().__init__()
        spec, sizes = published.spec, published.sizes
        self.trunk = build_hierarchical(spec, sizes, sizes)
        widths = {n: spec.widths[spec.middle] if n in spec.central_inputs else spec.embedding_channels for n in sizes}
        linears = {name: plain_linear(widths[name], channels, zero=True) for name, (_, channels) in sizes.items()}
        self.unembed = nn.ModuleDict(linears)

    def forward(self, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Levels]:
        """(B, M, c) of every modality again, and the latents."""
        batch = len(next(iter(values.values())))
        levels = self.trunk({name: Lifted(value) for name, value in values.items()}, batch)
        return {name: self.unembed[name](self.trunk.again(levels, name)) for name in values}, levels


def published_of(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Published:
    """The model of an official `config`; `shapes` of its parameters say how large its modalities are.

    Raises `ModelError` for a config that is not understood or does not fit the parameters.
    """
    cls = config.get("cls")
    if cls not in CLASSES:
        raise unknown("class of the hierarchical_perceiver code", str(cls), CLASSES, ModelError)
    for name in config:
        if name not in _OF_BLOCKS and name not in _OTHERS:
            raise unknown("setting of a hierarchical Perceiver", name, [*_OF_BLOCKS, *_OTHERS], ModelError)
    order = _names(config, "modality_order")
    if not order:
        raise ModelError("the config's modality_order is missing: which modality comes first decides the groups.")
    of_labels = _names(config, "label_modalities") if cls == "HiPClassBottleneck" else []
    labels = [name for name in order if name in of_labels]
    spec = parse_settings(HierarchicalSpec, _settings(config, labels), "the config")
    if spec.layers > len(shapes):
        raise ModelError(f"the config asks for {spec.layers} self-attends, but there are {len(shapes)} parameters.")
    return Published(cls, spec, {name: _size(name, labels, shapes) for name in order})


def _names(config: Mapping[str, Any], key: str) -> list[str]:
    """The modalities that the config lists there; none where it has no such list."""
    names = config.get(key) or []
    if not isinstance(names, list) or len(set(map(str, names))) < len(names):
        raise ModelError(f"the config's {key} is no list of different names.")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict, name) or name == "training":
            raise ModelError(f"{str(name)[:80]!r} in the config's {key} cannot be the name of a modality here.")
    return names


def _settings(config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Settings of ours. Their latents may be more in evaluation, or fewer in training; ours are those of evaluation."""
    alone = config["cls"] == "PerceiverIO"
    missing = [name for name in (*_OF_BLOCKS, "num_embedding_channels") if name not in config]
    if missing or (not alone and "num_groups" not in config):
        raise ModelError(f"the config lacks {', '.join(missing) or 'num_groups'}.")
    columns = {mine: [config[name]] if alone else config[name] for name, mine in _OF_BLOCKS.items()}
    columns["groups"] = [1] if alone else config["num_groups"]
    if not all(isinstance(column, list) and len(column) == len(columns["groups"]) for column in columns.values()):
        raise ModelError("the config's lists differ in length; each has one number a block.")
    blocks = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    prefix = "z" if alone else "processor"
    centre = blocks[len(blocks) // 2]
    in_training = config.get(f"{prefix}_index_dim_train") or centre["latents"]
    centre["latents"] = config.get(f"{prefix}_index_dim_eval") or centre["latents"]
    embedding = config["num_embedding_channels"]
    return {
        "blocks": blocks,
        "embedding_channels": embedding,
        "project_positions": (config.get("num_position_encoding_channels") or embedding) != embedding,
        "regroup": config.get("regroup_type") or "reshape",
        "train_latents": in_training if in_training != centre["latents"] else None,
        "central_inputs": labels,
        "dropout": config.get("dropout_prob", 0.0),
        "drop_path": config.get("drop_path_rate", 0.0),
    }


def _embedder(name: str, labels: Sequence[str]) -> str:
    """What haiku adds to the names of a modality's embedder and position encoder: each label has one of its own."""
    return f"_{labels.index(name) + 1}" if name in labels else ""


def _size(name: str, labels: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    number = _embedder(name, labels)
    found = []
    for path in (
        f"perceiver/position_encoder{number}/pos_emb_mae_{name}/pos_embs",
        f"perceiver/embedder{number}/~embed/embed_{name}/w",
    ):
        if path not in shapes or len(shapes[path]) != 2:
            raise ModelError(f"there is no array {quoted(path)} with two axes, which says how large '{name}' is.")
        found.append(int(shapes[path][0]))
    return found[0], found[1]


def official_names(published: Published) -> dict[str, str]:
    """Our parameter → theirs. A linear's weight is (in, out) in haiku, (out, in) here."""
    names: dict[str, str] = {}
    spec, labels = published.spec, list(published.spec.central_inputs)
    prefix = "perceiver_block" if published.cls == "HiPClassBottleneck" else "block"
    for index, block in enumerate(spec.blocks):
        ours, theirs = f"trunk.blocks.{index}", f"perceiver/{prefix}_{index}/~"
        names[f"{ours}.latents"] = f"{theirs}/{_CROSS}/query_inputs/pos_embs"
        _attend(names, f"{ours}.cross_attend", f"{theirs}/{_CROSS}", _CROSS_NORMS)
        other = spec.blocks[len(spec.blocks) - 1 - index]
        if index > spec.middle and other.channels != block.channels:
            _linear(names, f"{ours}.skip", f"{theirs}/{_CROSS}/pre_attention_residual_linear")
        for layer in range(block.self_attends):
            _attend(names, f"{ours}.self_attends.{layer}", f"{theirs}/self_attend_id_{layer}", _SELF_NORMS)
    # The head of the labels is made first, and made even where there are none.
    second = published.cls == "HiPClassBottleneck"
    _attend(names, "trunk.head", f"perceiver/reconstruction_head{'_1' * second}/{_CROSS}", _CROSS_NORMS)
    if labels:
        _attend(names, "trunk.central_head", f"perceiver/reconstruction_head/{_CROSS}", _CROSS_NORMS)
    outer = [name for name in published.sizes if name not in labels]
    for name in published.sizes:
        number, where = _embedder(name, labels), "central" if name in labels else "modalities"
        _linear(names, f"trunk.{where}.{name}.embed", f"perceiver/embedder{number}/~embed/embed_{name}")
        _linear(names, f"unembed.{name}", f"perceiver/embedder{number}/~unembed/unembed_{name}")
        encoder = f"perceiver/position_encoder{number}"
        names[f"trunk.{where}.{name}.position"] = f"{encoder}/pos_emb_mae_{name}/pos_embs"
        if spec.project_positions and name in outer:
            place = outer.index(name)
            theirs = f"{encoder}/position_encoding_linear{f'_{place}' if place else ''}"
            names[f"trunk.{where}.{name}.projection.weight"] = f"{theirs}/w"
    return names


def _attend(names: dict[str, str], ours: str, theirs: str, norms: Mapping[str, str]) -> None:
    for mine, other in norms.items():
        names[f"{ours}.{mine}.weight"] = f"{theirs}/{other}/scale"
        names[f"{ours}.{mine}.bias"] = f"{theirs}/{other}/offset"
    for part, linears in (("attention", _ATTENTION), ("mlp", _MLP)):
        for mine, other in linears.items():
            _linear(names, f"{ours}.{part}.{mine}", f"{theirs}/{'dense' if part == 'mlp' else part}/{other}")


def _linear(names: dict[str, str], ours: str, theirs: str) -> None:
    names[f"{ours}.weight"], names[f"{ours}.bias"] = f"{theirs}/w", f"{theirs}/b"


def from_official(params: Mapping[str, np.ndarray], published: Published) -> dict[str, Tensor]:
    """Their parameters as a state dict of `Autoencoder`. Raises `ModelError` for the first that does not fit."""
    with torch.device("meta"):
        wanted = Autoencoder(published).state_dict()
    names = official_names(published)
    assert names.keys() == wanted.keys(), "every parameter of ours has a name of theirs"
    found = {}
    for ours, theirs in names.items():
        if theirs not in params:
            raise ModelError(f"the parameters lack {quoted(theirs)}, which is {ours} here.")
        array = params[theirs]
        shape = tuple(wanted[ours].shape)
        given = tuple(array.T.shape) if theirs.endswith("/w") else tuple(array.shape)
        if given != shape:
            raise ModelError(f"{quoted(theirs)} has the shape {tuple(array.shape)}, which does not fit {shape} here.")
        found[ours] = torch.from_numpy(np.array(array.T if theirs.endswith("/w") else array))
    extra = sorted(set(params) - set(names.values()))
    if extra:
        raise ModelError(f"there is no place for {quoted(extra[0])}, one of {len(extra)} arrays too many.")
    return found


def to_official(state: Mapping[str, Tensor], published: Published) -> dict[str, np.ndarray]:
    """A state dict of `Autoencoder` as parameters under their names; undoes `from_official`."""
    arrays = {theirs: state[ours].detach().cpu().numpy() for ours, theirs in official_names(published).items()}
    return {name: np.ascontiguousarray(a.T) if name.endswith("/w") else a for name, a in arrays.items()}


def autoencoder_of(stored: Stored) -> tuple[Autoencoder, Published]:
    """The model of a recording, in evaluation mode. Raises `ModelError`, also for another count than `num_params`."""
    config = stored.extra.get("config")
    if not isinstance(config, dict):
        raise refused(stored.path, "it has no config as JSON, which says what the model is.")
    params = {name.removeprefix("params/"): array for name, array in stored.arrays.items() if array.trained}
    published = published_of(config, {name: array.shape for name, array in params.items()})
    state = from_official({name: array.read() for name, array in params.items()}, published)
    with torch.device("meta"):
        model = Autoencoder(published)
    model.load_state_dict(state, assign=True)
    count = sum(p.numel() for p in model.parameters())
    if config.get("num_params", count) != count:
        raise ModelError(f"the config says {config['num_params']} parameters (num_params), but the model has {count}.")
    return model.eval(), published


@torch.no_grad()
def recomputed_hierarchy(stored: Stored) -> dict[str, Tensor]:
    """The outputs of a recorded model by name, from its config, parameters and inputs. Raises `ModelError`."""
    model, published = autoencoder_of(stored)
    again, levels = model({name: _input(stored, name) for name in published.sizes})
    found = {f"input_reconstruction/{name}": value for name, value in again.items()}
    return found | {f"latents/{name}": value for name, value in _latents(model.trunk, levels).items()}


def _input(stored: Stored, name: str) -> Tensor:
    if f"input/{name}" not in stored.arrays:
        raise refused(stored.path, f"{quoted(f'input/{name}')} is missing.")
    return torch.from_numpy(np.array(stored.arrays[f"input/{name}"].read()))


def _latents(trunk: Hierarchical, levels: Levels) -> dict[str, Tensor]:
    """The last latents, cut as if they were elements: what the official code calls each modality's latents."""
    found, start = {}, 0
    for name, share in trunk.shares.items():
        if trunk.side_by_side:
            found[name] = levels.final[:, 0, start : start + share.elements]
            start += share.elements
        else:
            found[name] = share.ungrouped(levels.final[:, share.places])
    return found


def recomputed_groups(stored: Stored) -> dict[str, Tensor]:
    """The outputs of the recording of grouping and regrouping alone, whose config has cases of `assign_groups`."""
    for case in stored.extra["config"]["assign_groups_cases"]:
        given, size = assign_groups(case["num_groups"], case["index_dims"])
        if given != case["groups_per_modality"] or size != case["index_dim_per_group"]:
            raise ModelError(f"groups are assigned as {given} of {size} here, not as in the config's case {case}.")
    names = [name.removeprefix("input/") for name in stored.arrays if name.startswith("input/")]
    parts = {name: _input(stored, name) for name in names if name != "x"}
    grouped = stored.arrays.get("output/grouped")
    if grouped is None:
        raise refused(stored.path, "'output/grouped' is missing.")
    counts = [value.shape[1] for value in parts.values()]
    shares = dict(zip(parts, shares_of(grouped.shape[1], counts), strict=True))
    joined = torch.cat([shares[name].grouped(value) for name, value in parts.items()], dim=1)
    found = {"grouped": joined, "concat_grouped": torch.cat(list(parts.values()), dim=1)[:, None]}
    found |= {f"ungrouped/{n}": share.ungrouped(joined[:, share.places]) for n, share in shares.items()}
    for name in stored.arrays:
        match = _REGROUPED.fullmatch(name)
        if match is not None:
            how: Regrouping = "reshape" if match[2] == "reshape" else "transpose_reshape"
            found[match[1]] = regroup(_input(stored, "x"), int(match[3]), how)
    return found
