"""What each of four processes does for test_sharded.py, and the models and samples that both sides make alike.

In a module of its own: a spawned process imports it, and need not import pytest.
"""

import datetime
import os
import signal
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from perceivers import Source, build
from perceivers.nn.attention.sharded import Workers, counted, merge_over
from perceivers.nn.attention.state import State

WORKERS = 4
FOURIER = {"kind": "fourier", "bands": 20}
PHOTO = {"kind": "image", "size": [160, 40], "channels": 2, "mean": [0.5, 0.1], "std": [2.0, 1.0], "position": FOURIER}
PATCHES = {
    **PHOTO,
    "position": {"kind": "learned", "channels": 7},
    "lift": {"kind": "patches", "size": [8, 5], "channels": 6},
}
SERIES = {"kind": "series", "channels": 2, "seconds": 10.0, "mean": [0, 0], "std": [1, 1], "position": FOURIER}
FACTS = {"kind": "number", "columns": ["a", "b"], "channels": 8, "mean": [0, 0], "std": [1, 1]}
INPUTS = {
    "pixels": {"scene": PHOTO},
    "patches and facts": {"scene": PATCHES, "facts": FACTS},
    "irregular": {"scene": SERIES},
}
ROWS = 160
# Rows of each worker: in eights, since patches are. The third of four has none, and the second has enough pixels for
# another path than the rest.
SHARES = {1: [(0, 160)], 2: [(0, 32), (32, 160)], 4: [(0, 16), (16, 136), (136, 136), (136, 160)]}
ROUND_TRIPS = [(name, crosses, torch.float64) for name in INPUTS for crosses in (1, 2)]
ROUND_TRIPS += [(name, 2, torch.float32) for name in INPUTS]


def a_model(name, crosses, dtype=torch.float64, seed=0, dropout=0.0):
    spec = {
        "inputs": INPUTS[name],
        "latents": {"count": 5, "channels": 16},
        "encoder": {"cross_attends": crosses, "layers": 1, "blocks": 1, "self_attend": {"heads": 2}, "dropout": dropout}
        | {"cross": {"heads": 2, "qk_channels": 24}},
        "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
    }
    return build(spec, seed=seed).to(dtype)


def a_source(name, rows=None, count=ROWS):
    """Its rows `rows` of the sample of that name; runs of 24 rows."""
    draw = np.random.default_rng(3)
    if name != "irregular":
        return Source.of(draw.normal(size=(count, 40, 2)), rows=rows, run_rows=24)
    values, times = draw.normal(size=(count, 2)), np.sort(draw.uniform(0, 10, count))[:, None]
    whole = Source(
        values.shape,
        lambda: ((values[i : i + 24], times[i : i + 24]) for i in range(0, count, 24)),
        coords=True,
    )
    return whole if rows is None else whole.part(*rows)


def a_sample(name, source):
    return {"scene": source, **({"facts": [1.0, 2.0]} if "facts" in INPUTS[name] else {})}


def answers(model, sample, group=None):
    """The answer and the gradient of every parameter that has one."""
    model.zero_grad()
    found = model(sample, group)["label"]
    found.square().sum().backward()
    given = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    # The key's bias shifts all scores alike: its gradient is zero but for rounding.
    return {"answer": found.detach(), **{n: g for n, g in given.items() if not n.endswith("attention.key.bias")}}


def a_state(rank, spread):
    """Of worker `rank`, for the merge alone; the third read nothing, and nobody read the last row."""
    draw = torch.Generator().manual_seed(rank)
    lse = spread * torch.randn(1, 6, generator=draw, dtype=torch.float64)
    read = torch.randn(1, 6, 3, generator=draw, dtype=torch.float64)
    nothing = torch.zeros(6, dtype=torch.bool)
    nothing[-1] = True
    nothing |= torch.tensor(rank == 2)
    lse, read = lse.masked_fill(nothing, -torch.inf), read.masked_fill(nothing[:, None], 0)
    return State(lse.requires_grad_(), read.requires_grad_())


def loss_of(state):
    """Of what was read; in rows where nothing was, lse is no number to sum."""
    finite = ~state.lse.isinf()
    return state.lse[finite].sin().sum() + (state.read * torch.arange(3.0)).square().sum()


def holes(group):
    """Of a whole source that has lost the rows 70 and 159: how many elements were masked, and the progress told."""
    values, told = np.zeros((ROWS, 40, 2), np.float32), []
    values[70], values[159] = np.nan, np.inf
    source = Source.of(values)
    source.progress = lambda done, count: told.append((done, count))
    with torch.no_grad():
        a_model("pixels", 1).encode({"scene": source}, group)
    return source.masked, told


def failing(error_in_pass):
    """Rows 0 to 16, which end early in that pass."""
    passes = []

    def runs():
        passes.append(None)
        values = a_source("pixels", (0, 16))
        for _, value, _ in values.read():
            yield value[:-1] if len(passes) == error_in_pass else value

    return Source((ROWS, 40, 2), runs, rows=(0, 16), name="broken.npy")


def mistakes(rank, group):
    """name → what a worker does that fails on all; the message of each worker is kept."""
    shares = SHARES[WORKERS]
    pixels, facts = a_model("pixels", 1), a_model("patches and facts", 1)
    part = lambda rows, name="pixels": {"scene": a_source(name, rows)}  # noqa: E731
    overlapping = [(0, 16), (8, 136), (136, 136), (136, 160)]
    gap = [(0, 16), (16, 136), (136, 136), (137, 160)]
    short = [(0, 16), (16, 136), (136, 136), (136, 159)]
    unaligned = [(0, 16), (16, 133), (133, 133), (133, 160)]
    drops = a_model("pixels", 1, dropout=0.2)
    own = part(shares[rank])
    torch.manual_seed(rank)
    frozen, once = a_model("pixels", 1), Source((ROWS, 40, 2), iter([np.zeros((ROWS, 40, 2))]), name="stream")
    next(frozen.outputs.parameters()).requires_grad_(rank != 2)
    fresh = a_model("pixels", 1)
    wide = a_model("pixels", 1, torch.float32 if rank == 1 else torch.float64)

    def cast():
        with torch.autocast("cpu", enabled=rank == 3):
            return fresh.encode(own, group)

    return {
        "names": lambda: facts.encode(part(shares[rank]) | ({} if rank == 2 else {"facts": [1, 2]}), group),
        "no source": lambda: pixels.encode({"scene": np.zeros((160, 40, 2))} if rank == 1 else part(None), group),
        "values": lambda: facts.encode(part(shares[rank]) | {"facts": [1, 2] if rank else [2, 1]}, group),
        "batch": lambda: facts.encode([{"facts": [1, 2]}] * (1 + rank % 2), group),
        "length": lambda: a_model("irregular", 1).encode(
            {"scene": a_source("irregular", count=ROWS + rank // 3)}, group
        ),
        "overlap": lambda: pixels.encode(part(overlapping[rank]), group),
        "gap": lambda: pixels.encode(part(gap[rank]), group),
        "short": lambda: pixels.encode(part(short[rank]), group),
        "patch": lambda: facts.encode(part(unaligned[rank]), group),
        "weights": lambda: a_model("pixels", 1, seed=rank // 3).encode(part(None), group),
        "gradients": lambda: (torch.no_grad()(pixels.encode) if rank == 3 else pixels.encode)(part(None), group),
        "training": lambda: pixels.train(rank < 2).encode(part(None), group),
        "random": lambda: drops.train().encode(part(None), group),
        "unknown input": lambda: pixels.encode(part(None) | ({"photo": 1} if rank == 1 else {}), group),
        "dtype": lambda: wide.encode(own, group),
        "autocast": cast,
        "frozen": lambda: frozen.encode(own, group),
        "once": lambda: fresh.encode(part(None) if rank else {"scene": once}, group),
        "broken in pass 1": lambda: answers(pixels.train(), {"scene": failing(1)} if not rank else own, group),
        "broken in pass 2": lambda: answers(pixels.train(), {"scene": failing(2)} if not rank else own, group),
    }  # fmt: skip


def lost_worker(rank, group, lost, die):
    """What this worker finds when `lost` does not come to the merge."""
    model = a_model("pixels", 1)

    def runs():
        if rank == lost:
            die()
        yield np.zeros((ROWS // 4, 40, 2))

    rows = (ROWS // 4 * rank, ROWS // 4 * (rank + 1))
    return message_of(lambda: model.encode({"scene": Source((ROWS, 40, 2), runs, rows=rows)}, group))


def message_of(act):
    """(type, message) of what it raises."""
    try:
        act()
    except Exception as error:
        return type(error).__name__, str(error)
    return None


def work(rank, folder):
    """All that one of the four processes does; what it found is in FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    file = (Path(folder) / "rendezvous").as_uri()
    long, soon = datetime.timedelta(seconds=60), datetime.timedelta(seconds=2)
    dist.init_process_group("gloo", init_method=file, rank=rank, world_size=WORKERS, timeout=long)
    groups = {size: dist.new_group(list(range(size))) for size in SHARES}
    mortal, impatient = dist.new_group(list(range(WORKERS))), dist.new_group(list(range(WORKERS)), timeout=soon)
    found = {"answers": {}, "cut": {}, "bytes": {}, "merged": {}}
    for name, crosses, dtype in ROUND_TRIPS:
        model = a_model(name, crosses, dtype)
        for size in SHARES:
            if rank < size:
                sample = a_sample(name, a_source(name, SHARES[size][rank]))
                found["answers"][name, crosses, dtype, size] = answers(model, sample, groups[size])
        found["cut"][name, crosses, dtype] = answers(model, a_sample(name, a_source(name)), groups[WORKERS])
    for count in (150, 3000):
        with counted() as sent:
            answers(a_model("irregular", 1), a_sample("irregular", a_source("irregular", count=count)), groups[WORKERS])
        found["bytes"][count] = sent.bytes, sent.collectives
    found["holes"] = holes(groups[WORKERS])
    facts = {"facts": [1.0, 2.0]}
    model = a_model("patches and facts", 2)
    found["no source"] = answers(model, facts, groups[WORKERS]), answers(model, facts)
    for spread in (1.0, 1000.0):
        state = a_state(rank, spread)
        merged = merge_over(Workers(groups[WORKERS]), state, 5 * spread)
        loss_of(merged).backward()
        found["merged"][spread] = [*(t.detach() for t in merged), state.lse.grad, state.read.grad]
    found["mistakes"] = {name: message_of(act) for name, act in mistakes(rank, groups[WORKERS]).items()}
    if rank == 0:
        found["stalled"] = lost_worker(rank, impatient, 1, die=lambda: None)
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier(groups[WORKERS])
    found["killed"] = lost_worker(rank, mortal, 3, die=lambda: os.kill(os.getpid(), signal.SIGKILL))
    torch.save(found, Path(folder) / f"{rank}.pt")
