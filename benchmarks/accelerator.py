"""The works of models.py and io_models.py on an accelerator, against transformers with the same weights.

    python benchmarks/accelerator.py [--rounds K] [--autocast] [--quick]

float32 without TF32, or bfloat16 by autocast. What is compared is interleaved in one process, after a round that does
not count; the least time of each counts, and the most memory that torch gave out above what was there before the call.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import io_models
import models
import peers
import record
import torch

DEVICE = "cuda"
Works = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--autocast", action="store_true", help="bfloat16 by autocast, for both")
    parser.add_argument("--quick", action="store_true", help="two rounds, small sizes, nothing recorded")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: there is no accelerator here, which this benchmark is of.")
        return
    peers.need("transformers", "transformers>=5")
    quick, rounds = arguments.quick, 2 if arguments.quick else arguments.rounds
    blocks = models.QUICK_BLOCKS if quick else models.BLOCKS
    made: dict[str, Callable[[], Works]] = {
        "imagenet forward": lambda: models.imagenet(blocks, True, DEVICE)[0],
        "imagenet training step": lambda: models.training(blocks, DEVICE),
        "perceiver 2021 forward": lambda: models.perceiver_2021(blocks, True, DEVICE)[0],
        "optical flow": lambda: io_models.flow(quick, DEVICE),
        "byte language model": lambda: io_models.language(quick, DEVICE),
        "multimodal": lambda: io_models.multimodal(quick, DEVICE),
        "sampling": lambda: io_models.sampling(quick, DEVICE),
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, make in made.items():
        works = make()
        with (
            torch.inference_mode(name != "imagenet training step"),
            torch.autocast(DEVICE, torch.bfloat16, enabled=arguments.autocast),
        ):
            found[name] = measured(works, 1 if name in ("multimodal", "sampling") else rounds)
        if name == "multimodal":
            for by, numbers in found[name].items():
                whole = io_models.of_all_chunks({by: {"seconds": numbers["seconds"]}}, quick)[by]
                found[name][by] = {**numbers, **whole}
        least = min(by["seconds"] for by in found[name].values())
        for by, numbers in found[name].items():
            print(
                f"{name:<24}{by:<24}{numbers['seconds'] * 1e3:>10.2f} ms{numbers['peak_bytes'] / 1e6:>10.0f} MB"
                f"{numbers['seconds'] / least:>8.2f}",
                flush=True,
            )
        del works
        torch.cuda.empty_cache()
    if not quick:
        name = "accelerator_bfloat16" if arguments.autocast else "accelerator"
        facts = {"accelerator": torch.cuda.get_device_name(), "rounds": rounds, "seed": 0}
        print(record.write(name, {**facts, "works": found}))


def measured(works: Works, rounds: int) -> dict[str, dict[str, float]]:
    """Least seconds and peak bytes of each, taken in turns."""
    found = {name: {"seconds": float("inf"), "peak_bytes": 0.0} for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, begun = torch.cuda.memory_allocated(), time.perf_counter()
            work()
            torch.cuda.synchronize()
            # The first round loads kernels.
            if turn:
                found[name]["seconds"] = min(found[name]["seconds"], time.perf_counter() - begun)
            found[name]["peak_bytes"] = float(torch.cuda.max_memory_allocated() - before)
    return found


if __name__ == "__main__":
    main()
