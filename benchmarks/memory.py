"""Peak memory and time against the number of elements: ours from a generator, the peers from an array, until they die.

    python benchmarks/memory.py [--threads N] [--quick]

A picture of M pixels with 3 channels and 16 Fourier bands is read into 64 latents by one cross-attend of one head. Ours
reads a `Source` that makes its rows; transformers, perceiver-pytorch and scaled-dot-product attention need all M × 69
channels at once. Each measurement is a process of its own whose address space is limited (16 GB), which counts as a
death. Peak is of the whole process, Python and torch included. Linux only.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import peers
import record
import torch
from torch import Tensor, nn

import perceivers
from perceivers import Source
from perceivers.nn.attention import attend

BANDS, LATENTS, CHANNELS, MOST_BYTES = 16, 64, 69, 16 * 10**9
SIDES = {"1e5": 320, "1e6": 1000, "1e7": 3200, "1e8": 10_000, "1e9": 32_768}
WORKS = ("encode", "training step", "SDPA", "transformers", "perceiver-pytorch")


def picture(side: int) -> Source:
    """side × side RGB pixels, made a few million at a time; a picture that no memory holds at 1e9."""
    height = max(min(2**21 // side, side), 1)
    block = np.random.default_rng(0).integers(0, 256, (height, side, 3), dtype=np.uint8)

    def rows() -> Iterator[np.ndarray]:
        for start in range(0, side, height):
            yield block[: side - start] ^ np.uint8(start % 251)

    return Source((side, side, 3), rows, name="picture")


def spec(side: int) -> dict[str, object]:
    """One cross-attend over the picture, one self-attend."""
    image = {"kind": "image", "size": [side, side], "mean": [128] * 3, "std": [74] * 3}
    return {
        "inputs": {"scene": {**image, "position": {"kind": "fourier", "bands": BANDS}}},
        "latents": {"count": LATENTS, "channels": 64},
        "encoder": {"layers": 1, "self_attend": {"heads": 4}},
        "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
    }


def work(name: str, side: int) -> Callable[[], object]:
    """What is measured."""
    torch.manual_seed(0)
    if name in ("encode", "training step"):
        model = perceivers.build(spec(side), seed=0)
        if name == "encode":
            return lambda: model.encode({"scene": picture(side)})
        return lambda: model([{"scene": picture(side)}])["label"].square().sum().backward()
    elements = torch.randn(1, side * side, CHANNELS)
    if name == "SDPA":
        norm, key, value = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        query = torch.randn(1, LATENTS, CHANNELS)

        def plain() -> Tensor:
            x = norm(elements)
            return attend(query, key(x), value(x), 1)

        return plain
    if name == "transformers":
        return peers.transformers_encoder(LATENTS, CHANNELS, elements)
    return peers.perceiver_pytorch_encoder(LATENTS, CHANNELS, elements)


def here(name: str, side: int) -> None:
    """Measure in this process and print {"seconds", "peak"}."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    grad = torch.enable_grad() if name == "training step" else torch.no_grad()
    with grad:
        work(name, 32)()
        todo = work(name, side)
        begun = time.perf_counter()
        todo()
    seconds = time.perf_counter() - begun
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def measured(name: str, size: str, threads: int) -> dict[str, float] | None:
    """The same in a process of its own, or None where it died."""
    command = [sys.executable, __file__, "--here", name, "--size", size, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "memory" not in done.stderr.lower() and done.returncode > 0:
        raise SystemExit(f"{name} at {size} failed, and not for want of memory:\n{done.stderr[-2000:]}")
    return None


def main() -> None:
    """Measure, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="to 1e8 elements, peers to 1e7, nothing recorded")
    parser.add_argument("--here", choices=WORKS, help="only measure this in this process")
    parser.add_argument("--size", choices=SIDES, default="1e5")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.here:
        here(arguments.here, SIDES[arguments.size])
        return
    rows: dict[str, dict[str, dict[str, float] | None]] = {}
    for name in WORKS:
        for size in SIDES:
            ours = name in ("encode", "training step")
            most = {"encode": 1e8 if arguments.quick else 1e9, "training step": 1e7 if arguments.quick else 1e8}
            dead = rows.get(name) and None in rows[name].values()
            if dead or float(size) > most.get(name, 1e6 if arguments.quick else 1e9):
                continue
            found = measured(name, size, arguments.threads)
            rows.setdefault(name, {})[size] = found
            if found is None:
                print(f"{name} {size}: died within {MOST_BYTES / 1e9:.0f} GB", flush=True)
            elif ours:
                print(f"{name} {size}: peak {found['peak'] / 1e6:.0f} MB in {found['seconds']:.1f} s", flush=True)
            else:
                print(f"{name} {size}: peak {found['peak'] / 1e6:.0f} MB in {found['seconds']:.2f} s", flush=True)
    if not arguments.quick:
        record.write("memory", {"latents": LATENTS, "channels": CHANNELS, "most_bytes": MOST_BYTES, "rows": rows})
        draw(rows, record.RESULTS / "memory.png")


def draw(rows: dict[str, dict[str, dict[str, float] | None]], path: Path) -> None:
    """Time and peak against elements, both on logarithmic axes; a cross where a line died."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, field, label in zip(axes, ("seconds", "peak"), ("seconds", "peak bytes of the process"), strict=True):
        for name, sizes in rows.items():
            alive = {SIDES[size] ** 2: found[field] for size, found in sizes.items() if found is not None}
            (line,) = axis.loglog(list(alive), list(alive.values()), marker="o", label=name)
            for size in [size for size, found in sizes.items() if found is None]:
                top = max(alive.values()) if alive else 1.0
                axis.loglog([SIDES[size] ** 2], [top], marker="x", color=line.get_color(), linestyle="none")
        axis.set(xlabel="elements", ylabel=label)
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
