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

from perceivers.nn.attention import attend, attend_lifted
from perceivers.nn.lifted import Lifted
from perceivers.nn.position import FourierPosition

GRID, CONTENT, BANDS, QUERIES = (224, 224), 3, 64, 512
NAMES = ("plain", "absorbed", "factorised")


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
        forward = interleaved(works, rounds)
    both = interleaved({name: lambda w=work: w().sum().backward() for name, work in works.items()}, rounds)
    peaks = {name: peak_of(name, arguments.threads) for name in NAMES}
    result = {"grid": GRID, "content": CONTENT, "bands": BANDS, "queries": QUERIES, "rounds": rounds, "seed": 0}
    result |= {"differences": differences, "forward_seconds": forward, "both_seconds": both, "peak_bytes": peaks}
    if not arguments.quick:
        record.write("attention", result)
    show(differences, forward, both, peaks, rounds)


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

    return {"plain": plain, "absorbed": absorbed, "factorised": factorised}


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


def show(differences: dict[str, float], forward: dict, both: dict, peaks: dict[str, int], rounds: int) -> None:
    """A line a path, and the ratios."""
    print(f"{'path':<12}{'forward s':>12}{'both s':>12}{'peak MB':>12}{'difference':>14}")
    for name in NAMES:
        print(
            f"{name:<12}{forward[name]['min']:>12.4f}{both[name]['min']:>12.4f}{peaks[name] / 1e6:>12.1f}"
            f"{differences[name]:>14.1e}"
        )
    ratio = lambda seconds, name: seconds["plain"]["min"] / seconds[name]["min"]  # noqa: E731
    print(f"absorbed core: ratio {ratio(forward, 'absorbed'):.2f} against SDPA (min of {rounds})")
    print(f"attention core: ratio {ratio(forward, 'factorised'):.2f} against SDPA (min of {rounds})")
    print(f"attention core, forward and backward: ratio {ratio(both, 'factorised'):.2f} against SDPA (min of {rounds})")
    print(f"attention core, peak memory: ratio {peaks['plain'] / peaks['factorised']:.2f} below SDPA")


if __name__ == "__main__":
    main()
