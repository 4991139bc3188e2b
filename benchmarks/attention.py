"""The cross-attend core without keys and values against scaled-dot-product attention over explicit norm, keys, values.

    python benchmarks/attention.py [--threads N] [--rounds K] [--quick]

ImageNet's shape: a grid of 224 × 224 pixels, 3 channels and Fourier features of 64 bands (261 in all), 512 queries, one
head of 261; same weights, same inputs, float32. All are interleaved in one process; the least time of each counts. Peak
memory above the inputs is that of a fresh process for each.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import record
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from perceivers.nn.attention import attend, attend_lifted
from perceivers.nn.lifted import Lifted
from perceivers.nn.position import FourierPosition

GRID, CONTENT, BANDS, QUERIES = (224, 224), 3, 64, 512
NAMES = ("plain", "absorbed", "factorised", "projected")


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="three rounds, nothing recorded")
    parser.add_argument("--peak", choices=NAMES, help="only print that path's peak bytes above the inputs")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak_here(arguments.peak))
        return
    works = cores()
    with torch.no_grad():
        exact = works["plain"]()
        differences = {name: float((work() - exact).abs().max() / exact.abs().max()) for name, work in works.items()}
        flops = {name: counted(work) for name, work in works.items()}
        forward = interleaved({**works, "bare products": bare()}, rounds)
    both = interleaved({name: lambda w=work: w().sum().backward() for name, work in works.items()}, rounds)
    peaks = {name: peak_of(name, arguments.threads) for name in NAMES}
    result = {"grid": GRID, "content": CONTENT, "bands": BANDS, "queries": QUERIES, "rounds": rounds, "seed": 0}
    result |= {
        "differences": differences,
        "matrix_product_flops": flops,
        "forward_seconds": forward,
        "both_seconds": both,
        "peak_bytes": peaks,
    }
    if not arguments.quick:
        record.write("attention", result)
        draw(forward, both, peaks, record.RESULTS / "attention.png")
    show(differences, flops, forward, both, peaks, rounds)


def cores(grid: tuple[int, int] = GRID) -> dict[str, Callable[[], Tensor]]:
    """The same attention by each path."""
    torch.manual_seed(0)
    content = torch.randn(1, grid[0] * grid[1], CONTENT)
    lifted = Lifted(content, FourierPosition(GRID, BANDS).tables(grid, content))
    channels = lifted.channels
    norm, key, value = nn.LayerNorm(channels), nn.Linear(channels, channels), nn.Linear(channels, channels)
    query, whole = torch.randn(1, QUERIES, channels), Lifted(lifted.joined())

    def plain() -> Tensor:
        x = norm(whole.content)
        return attend(query, key(x), value(x), 1)

    def absorbed() -> Tensor:
        return attend_lifted(query, (whole,), ("absorbed",), norm, key, value, 1)

    def factorised() -> Tensor:
        return attend_lifted(query, (lifted,), ("factorised",), norm, key, value, 1)

    def projected() -> Tensor:
        return attend_lifted(query, (whole,), ("projected",), norm, key, value, 1)

    return {"plain": plain, "absorbed": absorbed, "factorised": factorised, "projected": projected}


def bare() -> Callable[[], object]:
    """The matrix products of the plain path and nothing else: nothing with keys and values takes less."""
    count, channels = GRID[0] * GRID[1], CONTENT + 2 * (2 * BANDS + 1)
    x, weight, query = torch.randn(count, channels), torch.randn(channels, channels), torch.randn(QUERIES, channels)
    scores = torch.empty(QUERIES, count)

    def products() -> None:
        key, value = x @ weight, x @ weight
        torch.mm(query, key.T, out=scores)
        torch.mm(scores, value)

    return products


def counted(work: Callable[[], object]) -> int:
    """Multiplications and additions of the matrix products of a call, by torch's counter."""
    counter = FlopCounterMode(display=False)
    # The fused kernels for CPUs are not counted; the written-out one is.
    with counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def interleaved(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Least and median seconds of each, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begun)
    return {name: {"min": min(s), "median": statistics.median(s)} for name, s in seconds.items()}


def peak_of(name: str, threads: int) -> int:
    """Peak bytes above the inputs of a forward and backward pass, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--threads", str(threads)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_here(name: str) -> int:
    """The same in this process; Linux only."""
    # A small one first: what is loaded with the first call is the library's, not the path's.
    cores((32, 32))[name]().sum().backward()
    work = cores()[name]
    before = resident("VmRSS")
    # 5: the kernel forgets the highest mark so far.
    Path("/proc/self/clear_refs").write_text("5")
    work().sum().backward()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at the most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def show(
    differences: dict[str, float],
    flops: dict[str, int],
    forward: dict,
    both: dict,
    peaks: dict[str, int],
    rounds: int,
) -> None:
    """A line a path, and the ratios."""
    head = ("path", "GFLOPs", "forward s", "both s", "peak MB", "difference")
    print(f"{head[0]:<12}" + "".join(f"{title:>12}" for title in head[1:]))
    for name in NAMES:
        print(
            f"{name:<12}{flops[name] / 1e9:>12.1f}{forward[name]['min']:>12.4f}{both[name]['min']:>12.4f}"
            f"{peaks[name] / 1e6:>12.1f}{differences[name]:>12.1e}"
        )
    print("GFLOPs: of matrix products alone, by torch's counter; tables, exp and norms are not counted.")
    ratio = lambda seconds, name: seconds["plain"]["min"] / seconds[name]["min"]  # noqa: E731
    print(f"bare products of the plain path: {forward['bare products']['min']:.4f} s")
    print(f"absorbed core: ratio {ratio(forward, 'absorbed'):.2f} against SDPA (min of {rounds})")
    print(f"attention core: ratio {ratio(forward, 'factorised'):.2f} against SDPA (min of {rounds})")
    print(f"attention core, forward and backward: ratio {ratio(both, 'factorised'):.2f} against SDPA (min of {rounds})")
    print(f"attention core, peak memory: ratio {peaks['plain'] / peaks['factorised']:.2f} below SDPA")


def draw(forward: dict, both: dict, peaks: dict[str, int], path: Path) -> None:
    """Bars of seconds and of peak memory."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    panels = [
        ("forward, seconds", {name: forward[name]["min"] for name in [*NAMES, "bare products"]}),
        ("forward and backward, seconds", {name: both[name]["min"] for name in NAMES}),
        ("peak above the inputs, MB", {name: peaks[name] / 1e6 for name in NAMES}),
    ]
    for axis, (title, bars) in zip(axes, panels, strict=True):
        axis.barh(list(bars), list(bars.values()))
        axis.invert_yaxis()
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
