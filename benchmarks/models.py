"""Whole published models against transformers, perceiver-pytorch, the plain path and the bare products of their tower.

    python benchmarks/models.py [--threads N] [--rounds K] [--quick]

One image of 224 × 224, float32. transformers computes the same function with the same weights (its activation set to
the paper's, its dropout to 0), and the logits are compared first; perceiver-pytorch has the same sizes as far as its
arguments can say them, and other weights. What is compared is interleaved in one process; the least time of each
counts. Peak memory of a training step is that above the weights, gradients included, in a fresh process for each; Linux
only. Then the works of io_models.py, which can also be run alone, each in a process of its own: optical flow, bytes, a
clip, sampling.
"""

import argparse
import contextlib
import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import io_models
import peers
import record
import torch
from attention import interleaved, resident
from torch import Tensor, nn

from perceivers.nn.attention import planner

BLOCKS, QUICK_BLOCKS, LAYERS, LATENTS, CHANNELS, HEADS = 8, 2, 6, 512, 1024, 8
# Rounds of the works of io_models.py, which take long.
IO_ROUNDS = 3
# Same function, same weights, float32: logits may differ by so much of the largest.
TOLERANCE = 1e-5
LABEL = torch.tensor([3])
Works = dict[str, Callable[[], Any]]
Seconds = dict[str, dict[str, float]]


def main() -> None:
    """Measure, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--quick", action="store_true", help="one round, 2 latent blocks of 8, no perceiver-pytorch, nothing recorded"
    )
    parser.add_argument("--peak", choices=("ours", "transformers"), help="only print that step's peak bytes")
    arguments = parser.parse_args()
    rounds, blocks = (1, QUICK_BLOCKS) if arguments.quick else (arguments.rounds, BLOCKS)
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        print(peak_here(arguments.peak, blocks))
        return
    peers.need("transformers", "transformers>=5")
    if not arguments.quick:
        peers.need("perceiver_pytorch", "perceiver-pytorch>=0.8")
    seconds: dict[str, Seconds] = {}
    io, differences = imagenet(blocks, arguments.quick)
    with torch.no_grad():
        seconds["imagenet forward"] = interleaved(io, rounds)
    del io
    repeated, differences["perceiver 2021"] = perceiver_2021(blocks, arguments.quick)
    with torch.no_grad():
        seconds["perceiver 2021 forward"] = interleaved(repeated, rounds)
    del repeated
    seconds["imagenet training step"] = interleaved(training(blocks), rounds)
    peaks = {name: peak_of(name, arguments.threads, arguments.quick) for name in ("ours", "transformers")}
    show(seconds, differences, peaks, rounds, blocks)
    result = {"rounds": rounds, "seed": 0, "latent_blocks": blocks, "image": [peers.SIZE, peers.SIZE]}
    result |= {"largest_logit_differences": differences, "seconds": seconds, "training_peak_bytes": peaks}
    if not arguments.quick:
        record.write("models", result)
        draw(seconds, record.RESULTS / "models.png")
    io_models.run(arguments.threads, 1 if arguments.quick else IO_ROUNDS, arguments.quick)


def imagenet(blocks: int, quick: bool, device: str = "cpu") -> tuple[Works, dict[str, float]]:
    """Perceiver IO with Fourier positions by each, and how far the logits of the same weights are apart."""
    ours, (batch, standard) = peers.ours(peers.IO, blocks, device).eval(), peers.image(device=device)
    twin = peers.twin(ours).eval()
    works: Works = {
        "ours": lambda: ours(batch)["label"],
        "transformers": lambda: twin(inputs=standard).logits,
        "bare products": bare_products(blocks, device),
    }
    if not quick:
        other, channels_last = peers.PerceiverPytorchOnce(blocks).eval(), standard.movedim(1, -1).contiguous()
        works["perceiver-pytorch"] = lambda: other(channels_last)
    with torch.no_grad():
        difference = apart(works["ours"](), works["transformers"](), "transformers")
    return works, {"transformers": difference}


def perceiver_2021(blocks: int, quick: bool, device: str = "cpu") -> tuple[Works, float]:
    """The model of 2021 with a cross-attend before each latent block: as it is, and by keys and values."""
    many, once = (peers.ours(name, blocks, device).eval() for name in ("perceiver-imagenet-fourier", peers.ONCE))
    batch, standard = peers.image(device=device)

    def plain(model: nn.Module) -> Tensor:
        with plain_path():
            return model(batch)["label"]

    works: Works = {
        "ours": lambda: many(batch)["label"],
        "SDPA": lambda: plain(many),
        "ours, 1 cross-attend": lambda: once(batch)["label"],
        "SDPA, 1 cross-attend": lambda: plain(once),
    }
    if not quick:
        other, channels_last = peers.perceiver_pytorch(blocks, blocks).eval(), standard.movedim(1, -1).contiguous()
        works["perceiver-pytorch"] = lambda: other(channels_last)
    with torch.no_grad():
        return works, apart(works["ours"](), works["SDPA"](), "SDPA")


def training(blocks: int, device: str = "cpu") -> Works:
    """A training step without the optimiser: gradients to nothing, forward, cross-entropy, backward."""
    ours, (batch, standard) = peers.ours(peers.IO, blocks, device).train(), peers.image(device=device)
    twin = peers.twin(ours).train()
    return {
        "ours": lambda: step(ours, lambda: ours(batch)["label"]),
        "transformers": lambda: step(twin, lambda: twin(inputs=standard).logits),
    }


def step(model: nn.Module, forward: Callable[[], Tensor]) -> None:
    """Gradients of the cross-entropy."""
    model.zero_grad()
    logits = forward()
    nn.functional.cross_entropy(logits, LABEL.to(logits.device)).backward()


@contextlib.contextmanager
def plain_path() -> Iterator[None]:
    """All cross-attends by keys and values, through scaled-dot-product attention."""
    before = planner.FEWEST_ELEMENTS
    planner.FEWEST_ELEMENTS = sys.maxsize
    try:
        yield
    finally:
        planner.FEWEST_ELEMENTS = before


def bare_products(blocks: int, device: str = "cpu") -> Callable[[], None]:
    """The matrix products of the latent tower and nothing else: six linears a self-attend, q·kᵀ, p·v."""
    x = torch.randn(LATENTS, CHANNELS, device=device)
    weights = [[torch.randn(CHANNELS, CHANNELS, device=device) for _ in range(6)] for _ in range(LAYERS)]
    q = torch.randn(HEADS, LATENTS, CHANNELS // HEADS, device=device)
    p = torch.randn(HEADS, LATENTS, LATENTS, device=device)

    def products() -> None:
        for _ in range(blocks):
            for layer in weights:
                for weight in layer:
                    torch.mm(x, weight.T)
                torch.bmm(q, q.mT)
                torch.bmm(p, q)

    return products


def apart(ours: Tensor, theirs: Tensor, name: str) -> float:
    """The largest difference by the largest logit; an error where the two are not the same function."""
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference <= TOLERANCE:
        raise AssertionError(f"logits differ from {name}'s by {difference:.1e} of the largest, over {TOLERANCE:.0e}.")
    return difference


def peak_of(name: str, threads: int, quick: bool) -> int:
    """Peak bytes above the weights of a training step, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--threads", str(threads), *(["--quick"] if quick else [])]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def peak_here(name: str, blocks: int) -> int:
    """The same in this process."""
    model, (batch, standard), (small, small_standard) = peers.ours(peers.IO, blocks), peers.image(), peers.image(32)
    if name == "transformers":
        model = peers.twin(model)
    run = (lambda b, x: model(b)["label"]) if name == "ours" else (lambda b, x: model(inputs=x).logits)
    model.train()
    # A small one first: what is loaded with the first call is the library's, not the step's.
    step(model, lambda: run(small, small_standard))
    model.zero_grad()
    # What the small one left with the allocator would hide as much of the large one.
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    # 5: the kernel forgets the highest mark so far.
    Path("/proc/self/clear_refs").write_text("5")
    step(model, lambda: run(batch, standard))
    return resident("VmHWM") - before


def show(
    seconds: dict[str, Seconds], differences: dict[str, float], peaks: dict[str, int], rounds: int, blocks: int
) -> None:
    """A line a work, and the ratios."""
    print(f"{'work':<26}{'by':<24}{'min s':>10}{'median s':>10}{'peak MB':>10}")
    for work, by in seconds.items():
        for name, found in by.items():
            peak = f"{peaks[name] / 1e6:>10.0f}" if work == "imagenet training step" else ""
            print(f"{work:<26}{name:<24}{found['min']:>10.3f}{found['median']:>10.3f}{peak}")
    pytorch = "perceiver-pytorch"
    if pytorch in seconds["imagenet forward"]:
        print(f"{pytorch}: same sizes, other weights, and its MLPs are wider: four times, gated")
    for name, difference in differences.items():
        against = "SDPA" if name == "perceiver 2021" else name
        print(f"largest difference of logits against {against}: {difference:.1e} of the largest")
    tail = f"(min of {rounds}{'' if blocks == BLOCKS else f', only {blocks} of {BLOCKS} latent blocks'})"
    io, repeated, train = seconds.values()
    ratio = lambda by, name, ours="ours": by[name]["min"] / by[ours]["min"]  # noqa: E731
    print(f"imagenet forward: ratio {ratio(io, 'transformers'):.2f} against transformers {tail}")
    if pytorch in io:
        print(f"imagenet forward: ratio {ratio(io, pytorch):.2f} against {pytorch} {tail}")
    print(f"imagenet forward: {1 / ratio(io, 'bare products'):.2f} times the bare products of its tower {tail}")
    print(f"perceiver 2021 forward: ratio {ratio(repeated, 'SDPA'):.2f} against SDPA {tail}")
    once = ratio(repeated, "SDPA, 1 cross-attend")
    print(f"perceiver 2021 forward: ratio {once:.2f} against 1 cross-attend through SDPA {tail}")
    if pytorch in repeated:
        print(f"perceiver 2021 forward: ratio {ratio(repeated, pytorch):.2f} against {pytorch} {tail}")
    print(
        f"imagenet training step: ratio {ratio(train, 'transformers'):.2f} against transformers, "
        f"peak memory ratio {peaks['transformers'] / peaks['ours']:.2f} {tail}"
    )


def draw(seconds: dict[str, Seconds], path: Path) -> None:
    """A group of bars a work, a bar an implementation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(seconds), figsize=(12, 4), layout="constrained")
    for axis, (work, by) in zip(axes, seconds.items(), strict=True):
        bars = axis.bar(list(by), [found["min"] for found in by.values()], color=[colour(name) for name in by])
        axis.bar_label(bars, fmt="%.2f")
        axis.set_title(work)
        axis.set_ylabel("seconds, least of all rounds")
        axis.margins(y=0.1)
        plt.setp(axis.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def colour(name: str) -> str:
    """Ours in one colour, the limit in grey, all others in another."""
    return "#2b6cb0" if name.startswith("ours") else "#a0aec0" if name == "bare products" else "#dd6b20"


if __name__ == "__main__":
    main()
