"""The cross-attend core without keys and values against scaled-dot-product attention over explicit norm, keys, values.

    python benchmarks/attention.py [--threads N] [--rounds K] [--quick]

ImageNet's shape: 50,176 elements of 261 channels, 512 queries, one head of 261; same weights, same inputs, float32.
The two are interleaved in one process; the least time of each counts.
"""

import argparse
import time
from collections.abc import Callable

import record
import torch
from torch import Tensor, nn

from perceivers.nn.attention import attend, attend_absorbed

ELEMENTS, CHANNELS, QUERIES = 50_176, 261, 512


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two rounds, nothing recorded")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    norm, key, value = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
    query, elements = torch.randn(1, QUERIES, CHANNELS), torch.randn(1, ELEMENTS, CHANNELS)

    def by_keys() -> Tensor:
        x = norm(elements)
        return attend(query, key(x), value(x), 1)

    def absorbed() -> Tensor:
        return attend_absorbed(query, elements, norm, key, value, 1)

    with torch.no_grad():
        exact = (by_keys() - absorbed()).abs().max() / by_keys().abs().max()
        forward = interleaved([by_keys, absorbed], rounds)
    both = interleaved([lambda: by_keys().sum().backward(), lambda: absorbed().sum().backward()], rounds)
    result = {"elements": ELEMENTS, "channels": CHANNELS, "queries": QUERIES, "rounds": rounds, "seed": 0}
    result |= {"difference": float(exact), "forward_seconds": forward, "both_seconds": both}
    result |= {"forward_ratio": round(forward[0] / forward[1], 2), "both_ratio": round(both[0] / both[1], 2)}
    if not arguments.quick:
        record.write("attention", result)
    print(f"largest difference: {float(exact):.1e} of the largest answer")
    print(f"attention core: ratio {forward[0] / forward[1]:.2f} against SDPA (min of {rounds})")
    print(f"attention core, forward and backward: ratio {both[0] / both[1]:.2f} against SDPA (min of {rounds})")


def interleaved(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """The least seconds of each, taken in turns."""
    least = [float("inf")] * len(works)
    for _ in range(rounds):
        for number, work in enumerate(works):
            begun = time.perf_counter()
            work()
            least[number] = min(least[number], time.perf_counter() - begun)
    return least


if __name__ == "__main__":
    main()
