"""A plan layer by layer: how each reads, in which chunks, for how long, with how much alive, and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from perceivers.models.memory import Alive, block_layers, model_outputs
from perceivers.models.model import Model
from perceivers.nn import MLP, Attention, CrossAttend, Decoder
from perceivers.nn.attention.planner import COSTS, Asking, PartShape, Path, nanoseconds, part_paths
from perceivers.nn.attention.state import TILE_SCORES, chunk_length

FLOAT = 4


@dataclass(frozen=True)
class Layer:
    """One line of a plan.

    paths: input name → how it is read (of a cross-attend of the encoder). chunks: input name → elements that are read
    at once. seconds: estimated, forward, one sample, on two cores as fast as those that `planner.COSTS` was fitted on.
    bytes: alive at once while it runs, one sample's, besides its input. why: in words.
    """

    name: str
    paths: Mapping[str, Path]
    chunks: Mapping[str, int]
    seconds: float
    bytes: int
    why: str


def layers_of(model: Model, alive: Alive) -> tuple[Layer, ...]:
    """The encoder's cross-attends and latent blocks in their order, and the decoder."""
    found: list[Layer] = []
    crosses = 0
    for kind, index in model.perceiver.order:
        if kind == "cross":
            crosses += 1
            found.append(_cross(f"cross-attend {crosses}", model.perceiver.cross_attends[index], alive))  # pyright: ignore[reportArgumentType]
            continue
        latents = model.spec.latents.count
        layers = block_layers(model, index)
        products = sum(_products(layer.attention, layer.mlp, latents, latents) for layer in layers)
        size = max(_bytes(layer.attention, layer.mlp, latents, latents) for layer in layers) if layers else 0
        kept = "its inside is computed again in the backward pass" if alive.recompute else "kept for the backward pass"
        found.append(Layer(f"{len(layers)} self-attends", {}, {}, seconds_of(products), size, kept))
    if isinstance(model.decoder, Decoder):
        cross, latents = model.decoder.cross_attend, model.spec.latents.count
        queries = sum(output.count(alive.elements) for output in model_outputs(model).values())
        products = _products(cross.attention, cross.mlp, queries, latents)
        size = _bytes(cross.attention, cross.mlp, queries, latents)
        found.append(
            Layer("decoder", {}, {}, seconds_of(products), size, f"{queries:,} queries read {latents:,} latents")
        )
    return tuple(found)


def _cross(name: str, cross: CrossAttend, alive: Alive) -> Layer:
    shapes, asking, paths = alive.shapes(), alive.asking(False), alive.paths(False)
    rows = asking.queries * asking.heads
    chunks = {n: _chunk(shape, paths[n], rows) for n, shape in shapes.items()}
    if "plain" in paths.values():
        whole = PartShape(sum(shape.elements for shape in shapes.values()), asking.channels)
        read = nanoseconds(whole, "plain", asking)
        size = whole.elements * (2 * asking.channels + asking.qk + asking.v)
    else:
        read = sum(nanoseconds(shape, paths[n], asking) for n, shape in shapes.items())
        size = max(_alive(shape, paths[n], asking, chunks[n]) for n, shape in shapes.items())
    own = _products(cross.attention, cross.mlp, asking.queries, 0)
    why = "; ".join(_why(n, shape, paths[n], asking) for n, shape in shapes.items())
    return Layer(name, paths, chunks, read / 1e9 + seconds_of(own), size * FLOAT, why)


def _why(name: str, shape: PartShape, path: Path, asking: Asking) -> str:
    """Each path's estimate for one input, the one that is taken first."""
    times = {p: nanoseconds(shape, p, asking) / 1e9 for p in ("plain", *part_paths(shape))}
    others = ", ".join(f"{p} {_short(t)}" for p, t in sorted(times.items(), key=lambda pair: pair[1]) if p != path)
    return f"{name}: {path} {_short(times[path])}, {others}"


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def _chunk(shape: PartShape, path: Path, rows: int) -> int:
    """Elements that are read at once."""
    most = {"plain": shape.elements, "factorised": max(TILE_SCORES // rows, 1)}.get(path, chunk_length(rows))
    return min(most, shape.elements)


def _alive(shape: PartShape, path: Path, asking: Asking, chunk: int) -> int:
    """Numbers alive while one part is read: a chunk and its scores, and what is read so far (float64)."""
    rows = asking.queries * asking.heads
    keys = asking.qk + asking.v if path == "projected" else 0
    width = shape.content if path == "factorised" else asking.channels
    return chunk * (2 * width + keys + 2 * rows) + 3 * rows * asking.channels


def _products(attention: Attention, mlp: MLP, queries: int, elements: int) -> int:
    """Multiply-adds of a block over keys and values of `elements`; 0: of its own linears alone."""
    linears = [attention.query, attention.output, mlp.hidden, mlp.output]
    own = queries * sum(layer.in_features * layer.out_features for layer in linears)
    keys = sum(layer.in_features * layer.out_features for layer in (attention.key, attention.value))
    return own + elements * (keys + queries * (attention.key.out_features + attention.value.out_features))


def _bytes(attention: Attention, mlp: MLP, queries: int, elements: int) -> int:
    width, keys = attention.output.out_features, attention.key.out_features + attention.value.out_features
    own = 4 * width + attention.query.out_features + 2 * mlp.hidden.out_features
    return FLOAT * (queries * own + elements * keys)


def seconds_of(products: int) -> float:
    """The estimated time of so many multiply-adds of linears, on two cores."""
    return products * COSTS["plain", False][0] / 1e9
