"""One picture read by 1, 2 and 4 processes of uneven shares against one process: differences, and bytes that are sent.

    python benchmarks/sharded.py [--quick]

Pictures of 1,000 columns and three channels, made as they are read and never held, Fourier positions of 16 bands, 64
latents of 128 channels, two cross-attends, float32; answer and gradients of all weights. One of four processes has no
rows. Processes are of a gloo group, one thread each. A difference is the largest one over the largest number: of the
answers, of all gradients together, and of the weight that is worst by itself. The last is also given against float64,
to tell rounding from error.
"""

import argparse
import datetime
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from perceivers import Source, build
from perceivers.nn.attention.sharded import counted

COLUMNS = 1000
HEIGHTS, QUICK_HEIGHTS = (100, 1_000, 10_000), (100, 400)
# Of the rows, in hundredths.
SHARES = {1: (0, 100), 2: (0, 30, 100), 4: (0, 10, 60, 60, 100)}
TIMEOUT = datetime.timedelta(minutes=30)


class Picture:
    """(height, 1000, 3) numbers that depend on their place alone, made when they are asked for."""

    def __init__(self, height: int) -> None:
        self.shape = (height, COLUMNS, 3)

    def __getitem__(self, rows: slice) -> Tensor:
        """(rows, 1000, 3)"""
        y = torch.arange(rows.start, rows.stop, dtype=torch.float64)[:, None, None]
        x = torch.arange(COLUMNS, dtype=torch.float64)[:, None]
        noise = (y * 12.9898 + x * 78.233 + torch.arange(3) * 37.719).sin() * 43758.5453
        return (noise - noise.floor()).float()


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the two smallest pictures, nothing recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Fresh processes that share one import of torch, where the system has that.
    start = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
    if start == "forkserver":
        mp.get_context(start).set_forkserver_preload(["perceivers.models.build"])
    heights = QUICK_HEIGHTS if arguments.quick else HEIGHTS
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        exact = {height: found_by(height, torch.float64) for height in heights}
        alone = {height: found_by(height, torch.float32) for height in heights}
        for size in SHARES:
            mp.start_processes(worker, (size, heights, folder), nprocs=size, start_method=start)
            for height in heights:
                lines.append(compared(size, height, folder, alone[height], exact[height]))
    sent = {line["bytes"] for line in lines if line["workers"] == max(SHARES)}
    if not arguments.quick:
        record.write("sharded", {"columns": COLUMNS, "shares": SHARES, "seed": 0, "lines": lines})
    show(lines)
    last = lines[-1]
    print(
        f"sharded: {last['workers']} workers, {last['elements']} elements: difference {last['difference']:.1e}, "
        f"gradient difference {last['gradient_difference']:.1e}, {last['bytes']} bytes a worker, "
        + ("independent of elements" if len(sent) == 1 else f"NOT independent of elements: {sorted(sent)}")
    )


def found_by(height: int, dtype: torch.dtype, group: Any = None, rows: tuple[int, int] | None = None) -> dict[str, Any]:
    """The answer, the gradients, seconds, and bytes and number of what was sent."""
    position = {"kind": "fourier", "bands": 16}
    size = [height, COLUMNS]
    scene = {"kind": "image", "size": size, "mean": [0.5] * 3, "std": [0.3] * 3, "position": position}
    spec = {
        "inputs": {"scene": scene},
        "latents": {"count": 64, "channels": 128},
        "encoder": {"cross_attends": 2, "layers": 1, "blocks": 1, "self_attend": {"heads": 4}},
        "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
    }
    model = build(spec, seed=0).to(dtype)
    begun = time.perf_counter()
    with counted() as sent:
        answer = model({"scene": Source.of(Picture(height), rows=rows)}, group)["label"]
        answer.square().sum().backward()
    seconds = time.perf_counter() - begun
    # The key's bias shifts all scores alike: its gradient is zero but for rounding.
    kept = {n: p.grad for n, p in model.named_parameters() if not n.endswith("attention.key.bias")}
    found = {"answer": answer.detach(), "gradients": kept, "seconds": seconds}
    return found | {"bytes": sent.bytes, "collectives": sent.collectives}


def worker(rank: int, size: int, heights: tuple[int, ...], folder: str) -> None:
    """One process of `size`; writes what it found."""
    torch.set_num_threads(1)
    file = (Path(folder) / f"rendezvous-{size}").as_uri()
    dist.init_process_group("gloo", init_method=file, rank=rank, world_size=size, timeout=TIMEOUT)
    for height in heights:
        rows = (height * SHARES[size][rank] // 100, height * SHARES[size][rank + 1] // 100)
        found = found_by(height, torch.float32, dist.group.WORLD, rows)
        torch.save(found, Path(folder) / f"{size}-{height}-{rank}.pt")
    dist.destroy_process_group()


def compared(size: int, height: int, folder: str, alone: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    """A line of the table, from what all workers found."""
    found = [torch.load(Path(folder) / f"{size}-{height}-{rank}.pt") for rank in range(size)]
    against = lambda other: [difference(one, other) for one in found]  # noqa: E731
    answers, gradients, worst = (max(d) for d in zip(*against(alone), strict=True))
    return {
        "workers": size,
        "elements": height * COLUMNS,
        "difference": answers,
        "gradient_difference": gradients,
        "worst_weight": worst,
        "worst_weight_error": max(d[2] for d in against(exact)),
        "worst_weight_error_alone": difference(alone, exact)[2],
        "bytes": max(one["bytes"] for one in found),
        "collectives": found[0]["collectives"],
        "seconds": max(one["seconds"] for one in found),
        "seconds_alone": alone["seconds"],
    }


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> tuple[float, float, float]:
    """Of the answers, of all gradients, and of the worst weight's; NaN where there is any."""
    relative = lambda a, b: float((a.double() - b.double()).abs().max() / b.double().abs().max())  # noqa: E731
    names = list(wanted["gradients"])
    flat = lambda one: torch.cat([one["gradients"][name].double().flatten() for name in names])  # noqa: E731
    each = [relative(found["gradients"][name], wanted["gradients"][name]) for name in names]
    worst = math.nan if any(map(math.isnan, each)) else max(each)
    return relative(found["answer"], wanted["answer"]), relative(flat(found), flat(wanted)), worst


def show(lines: list[dict[str, Any]]) -> None:
    """A line a group and picture."""
    names = ("difference", "gradients", "worst", "seconds", "alone", "bytes")
    print(f"{'workers':>8}{'elements':>11}" + "".join(f"{name:>12}" for name in names))
    for line in lines:
        print(
            f"{line['workers']:>8}{line['elements']:>11}{line['difference']:>12.1e}{line['gradient_difference']:>12.1e}"
            f"{line['worst_weight']:>12.1e}{line['seconds']:>12.1f}{line['seconds_alone']:>12.1f}{line['bytes']:>12}"
        )
    worst, alone = (max(line[name] for line in lines) for name in ("worst_weight_error", "worst_weight_error_alone"))
    print(f"against float64 the worst weight's gradient is off by {worst:.1e} sharded, by {alone:.1e} in one process")


if __name__ == "__main__":
    main()
