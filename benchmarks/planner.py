"""Does the planner choose well? Every path over many shapes, in turns, against the path that the planner takes.

    python benchmarks/planner.py [--threads 2] [--rounds 5] [--seed 0] [--quick]

For each shape (elements, queries, channels, content, heads; forward, and forward with the backward pass of the weights)
all paths read the same random elements; the least time of each counts. Ends with the share of shapes where the chosen
path is within 10 % of the best, and the worst ratio against the plain path.
"""

import argparse
import itertools
import random
import time
from collections.abc import Callable

import record
import torch
from torch import Tensor, nn

from perceivers.nn.attention import attend, attend_lifted
from perceivers.nn.attention.planner import Asking, PartShape, Path, choose_paths
from perceivers.nn.lifted import AxisTables, Lifted

LEAST_SECONDS = 1.5
Shape = tuple[int, int, int, int, int]
"""Elements, queries, channels, content (= channels: no grid), heads."""


def shapes(count: int, seed: int) -> list[Shape]:
    """`count` shapes drawn from what people have; none takes more than about a second."""
    widths = [(261, 3), (67, 3), (131, 1), (322, 64), (243, 48), (99, 3), (195, 3)]
    # What a stem or patches hand on is wide itself.
    widths += [(194, 128), (300, 256), (578, 512)]
    widths += [(c, c) for c in (32, 64, 128, 261, 512, 768)]
    every = itertools.product((1024, 4096, 16384, 50176, 147456), (16, 64, 256, 512), widths, (1, 2, 4, 8))
    fitting = [
        (m, n, -(-c // h) * h if c == w else c, -(-c // h) * h if c == w else w, h)
        for m, n, (c, w), h in every
        if m * 2 * (-(-c // h) * h) * (c + n) < 1.2e10 and m * n * h <= 2**27
    ]
    return random.Random(seed).sample(fitting, count)


def works(shape: Shape, training: bool) -> dict[str, Callable[[], object]]:
    """Each path over the same elements, and under `chosen` what the planner takes."""
    elements, queries, channels, content, heads = shape
    torch.manual_seed(0)
    width = -(-channels // heads) * heads
    norm, key, value = nn.LayerNorm(channels), nn.Linear(channels, width), nn.Linear(channels, width)
    query = torch.randn(1, queries, width, requires_grad=training)
    side = round(elements**0.5)
    assert side * side == elements, "a square"
    position = None
    if content < channels:
        half = (channels - content) // 2
        tables = torch.randn(side, half), torch.randn(side, channels - content - half)
        position = AxisTables(tables, tuple(range(channels - content)))
    lifted = Lifted(torch.randn(1, elements, content), position)
    whole = Lifted(lifted.joined())

    def plain() -> Tensor:
        x = norm(lifted.joined())
        return attend(query, key(x), value(x), heads)

    def by(path: Path, part: Lifted) -> Callable[[], Tensor]:
        return lambda: attend_lifted(query, (part,), (path,), norm, key, value, heads)

    found: dict[str, Callable[[], Tensor]] = {"plain": plain}
    found["absorbed"] = by("absorbed", lifted)
    found["projected"] = by("projected", lifted)
    if position is not None:
        found["factorised"] = by("factorised", lifted)
    assert whole.channels == channels, "joined"
    if not training:
        return dict(found)
    return {name: lambda w=work: w().sum().backward() for name, work in found.items()}


def chosen(shape: Shape, training: bool) -> str:
    """The path that the planner takes."""
    elements, queries, channels, content, heads = shape
    width = -(-channels // heads) * heads
    side = round(elements**0.5) if content < channels else None
    part = PartShape(elements, content, side)
    paths = choose_paths([part], Asking(queries, channels, width, width, heads, training))
    return "plain" if paths is None else paths[0]


def measure(shape: Shape, training: bool, rounds: int) -> dict[str, float]:
    """Least seconds of each path, in turns; with one thread the processor's, which a busy machine does not lengthen.

    At least `rounds` turns, short ones for `LEAST_SECONDS`: where memory happens to lie changes them by a third.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = dict.fromkeys(works(shape, training), float("inf"))
    with torch.set_grad_enabled(training):
        todo = works(shape, training)
        turns, started = 0, time.perf_counter()
        while turns < rounds or time.perf_counter() - started < LEAST_SECONDS:
            turns += 1
            for name, work in todo.items():
                begun = clock()
                work()
                seconds[name] = min(seconds[name], clock() - begun)
    return seconds


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the shapes; the costs were fitted to those of 0, 2 and 3"
    )
    parser.add_argument("--quick", action="store_true", help="24 shapes, three rounds, nothing recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    rounds = 3 if arguments.quick else arguments.rounds
    for shape, training in itertools.product(shapes(12 if arguments.quick else 90, arguments.seed), (False, True)):
        seconds = measure(shape, training, rounds)
        took = chosen(shape, training)
        rows.append({"shape": shape, "training": training, "seconds": seconds, "chosen": took})
        best = min(seconds, key=lambda name: seconds[name])
        print(
            f"{shape!s:<34}{'both' if training else 'forward':<9}{took:<12}{best:<12}"
            f"{seconds[took] / seconds[best]:>6.2f} of the best{seconds[took] / seconds['plain']:>7.2f} of plain",
            flush=True,
        )
    near = sum(row["seconds"][row["chosen"]] <= 1.1 * min(row["seconds"].values()) for row in rows)
    worst = max(row["seconds"][row["chosen"]] / row["seconds"]["plain"] for row in rows)
    if not arguments.quick:
        record.write("planner", {"rounds": rounds, "seed": arguments.seed, "rows": rows, "near": near, "worst": worst})
    print(
        f"planner: within 10 % of the best path in {near} of {len(rows)} ({100 * near / len(rows):.1f} %); "
        f"worst against plain {worst:.2f} (min of {rounds} or more)"
    )


if __name__ == "__main__":
    main()
