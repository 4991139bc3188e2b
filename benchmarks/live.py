"""Random edits of a live set of elements: the time of each, and the difference from reading all of them again.

    python benchmarks/live.py [--threads N] [--elements M] [--edits K] [--block B] [--quick]

An irregular series of 2 channels with Fourier features of 16 bands (35 in all), 64 latents of 128, one cross-attend,
four self-attends, float32. Edits are drawn at random: appends, replacements, deletions and slides of up to 1,000 events
(those replaced or deleted lie in a row, from anywhere on), and replacements and deletions of single ones anywhere. The
time of an edit is that of the edit and of the latents after it; on a machine that others use too, see also the time of
the processor. At checkpoints `encode` reads the same events from a source. What an event holds follows from its number,
so that only the set under test holds 10⁷ of them.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import record
import torch

from perceivers import LiveEncoder, Source, build

CHANNELS, BANDS, LATENTS, WIDTH, SECONDS = 2, 16, 64, 128, 1e6
PAGE = 2**16
MOST = 1000
CHECKPOINTS = 5
EDITS = ("append", "replace", "replace one", "delete", "delete one", "slide")


class Events:
    """What should be there: events by id, made from the id's page and a seed; replaced ones are kept."""

    def __init__(self) -> None:
        self.count, self.oldest = 0, 0
        self.gone = np.zeros(0, bool)
        self.replaced: dict[int, np.ndarray] = {}

    def page(self, number: int) -> np.ndarray:
        """(PAGE, C + 1): values and time of all ids of a page, as they were appended."""
        draw = np.random.default_rng((7, number))
        rows = draw.normal(size=(PAGE, CHANNELS + 1)).astype(np.float32)
        rows[:, -1] = draw.uniform(0, SECONDS, PAGE)
        return rows

    def new(self, count: int) -> np.ndarray:
        """The next `count` events, (count, C + 1)."""
        first, last = self.count, self.count + count
        pages = range(first // PAGE, -(-last // PAGE))
        rows = np.concatenate([self.page(p) for p in pages])[first - pages[0] * PAGE :][:count]
        self.count = last
        if len(self.gone) < last:
            self.gone = np.concatenate([self.gone, np.zeros(max(last, 2**20), bool)])
        return rows

    def some(self, start: int, count: int) -> np.ndarray:
        """Ids of up to `count` events that are there, from `start` on."""
        window = np.arange(start, min(start + 4 * count + PAGE, self.count))
        return window[~self.gone[window]][:count]

    def drop_oldest(self, count: int) -> None:
        """The oldest go."""
        found = self.some(self.oldest, count)
        while len(found) < count:
            found = np.concatenate([found, self.some(int(found[-1]) + 1, count - len(found))])
        self.gone[found] = True
        self.oldest = int(found[-1]) + 1

    def source(self) -> Source:
        """All that are there, a page a run."""

        def runs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            replaced = np.array(sorted(self.replaced), np.int64)
            for number in range(self.oldest // PAGE, -(-self.count // PAGE)):
                ids = np.arange(number * PAGE, min((number + 1) * PAGE, self.count))
                rows = self.page(number)[: len(ids)]
                for other in replaced[np.searchsorted(replaced, ids[0]) : np.searchsorted(replaced, ids[-1] + 1)]:
                    rows[other - ids[0], :CHANNELS] = self.replaced[int(other)]
                rows = rows[~self.gone[ids]]
                yield rows[:, :CHANNELS], rows[:, CHANNELS:]

        return Source((self.count - int(self.gone[: self.count].sum()), CHANNELS), runs, coords=True)


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--elements", type=int, default=10_000_000)
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--block", type=int)
    parser.add_argument("--quick", action="store_true", help="10⁶ elements, 100 edits, nothing recorded")
    arguments = parser.parse_args()
    elements, edits = (1_000_000, 100) if arguments.quick else (arguments.elements, arguments.edits)
    torch.set_num_threads(arguments.threads)
    before = resident("VmRSS")
    result = measure(elements, edits, {} if arguments.block is None else {"block": arguments.block})
    result |= {"peak_bytes": resident("VmHWM") - before, "peak_rss_bytes": resident("VmHWM"), "seed": 0}
    if not arguments.quick:
        record.write("live", result)
    show(result)


def measure(elements: int, edits: int, settings: dict) -> dict:
    """Fill, edit, compare."""
    model = build(
        {
            "inputs": {
                "events": {"kind": "series", "channels": CHANNELS, "seconds": SECONDS, "mean": [0] * 2, "std": [1] * 2}
                | {"position": {"kind": "fourier", "bands": BANDS}}
            },
            "latents": {"count": LATENTS, "channels": WIDTH},
            "outputs": {"answer": {"kind": "category", "classes": ["a", "b"]}},
        },
        seed=0,
    )
    live, truth, draw = LiveEncoder(model, "events", **settings), Events(), np.random.default_rng(0)
    begun = time.perf_counter()
    while truth.count < elements:
        rows = truth.new(min(10 * PAGE, elements - truth.count))
        live.append(rows[:, :CHANNELS], rows[:, CHANNELS])
    live.latents()
    filled = time.perf_counter() - begun
    seconds: dict[str, list[float]] = {name: [] for name in EDITS}
    processor, differences, recomputing = [], [], []
    for number in range(1, edits + 1):
        name, edit = an_edit(live, truth, draw)
        begun, worked = time.perf_counter(), time.process_time()
        edit()
        found = live.latents()
        seconds[name].append(time.perf_counter() - begun)
        processor.append(time.process_time() - worked)
        if number % max(edits // CHECKPOINTS, 1) == 0:
            begun = time.perf_counter()
            with torch.no_grad():
                exact = model.encode({"events": truth.source()})
            recomputing.append(time.perf_counter() - begun)
            differences.append(float((found - exact).abs().max() / exact.abs().max()))
    measured = [(name, found) for name, found in seconds.items() if found]
    taken = [s for each in seconds.values() for s in each]
    return {
        "elements": elements,
        "edits": edits,
        "filled_seconds": filled,
        "median_seconds": statistics.median(taken),
        "max_seconds": max(taken),
        "processor_seconds": {"median": statistics.median(processor), "max": max(processor)},
        "by_edit": {name: {"median": statistics.median(s), "max": max(s), "count": len(s)} for name, s in measured},
        "recomputed_seconds": statistics.median(recomputing),
        "differences": differences,
    }


def an_edit(live: LiveEncoder, truth: Events, draw: np.random.Generator) -> tuple[str, Callable[[], object]]:
    """The next edit, made in `truth` already."""
    name, count = EDITS[draw.integers(len(EDITS))], int(draw.integers(1, MOST + 1))
    if name == "append":
        rows = truth.new(count)
        return name, lambda: live.append(rows[:, :CHANNELS], rows[:, CHANNELS])
    if name == "slide":
        truth.drop_oldest(count)
        return name, lambda: live.slide(count)
    ids = truth.some(int(draw.integers(truth.oldest, truth.count - MOST)), 1 if name.endswith("one") else count)
    if name.startswith("delete"):
        truth.gone[ids] = True
        return name, lambda: live.delete(ids)
    values = draw.normal(size=(len(ids), CHANNELS)).astype(np.float32)
    truth.replaced |= dict(zip(ids.tolist(), values, strict=True))
    return name, lambda: live.replace(ids, values)


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at the most (VmHWM); Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def show(result: dict) -> None:
    """A line a sort of edit, and the line that counts."""
    print(f"{'edit':<14}{'count':>7}{'median s':>12}{'max s':>12}")
    for name, found in result["by_edit"].items():
        print(f"{name:<14}{found['count']:>7}{found['median']:>12.4f}{found['max']:>12.4f}")
    worked = result["processor_seconds"]
    print(f"time of the processor, all threads: median {worked['median']:.4f} s, max {worked['max']:.4f} s")
    print(f"filled in {result['filled_seconds']:.1f} s; read again in {result['recomputed_seconds']:.1f} s")
    above, in_all = result["peak_bytes"] / 1e6, result["peak_rss_bytes"] / 1e6
    print(f"peak memory: {above:.0f} MB above the start, {in_all:.0f} MB in all")
    print(
        f"live: {result['edits']} edits of {result['elements']} elements: median {result['median_seconds']:.4f} s, "
        f"max {result['max_seconds']:.4f} s, difference {max(result['differences']):.1e}"
    )


if __name__ == "__main__":
    main()
