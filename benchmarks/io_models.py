"""Models that answer many queries, against transformers with the same weights, and against the plain ways of use.

    python benchmarks/io_models.py [--threads N] [--rounds K] [--quick]

Optical flow on one pair of 368 × 496 pixels, with the peak memory of each in a process of its own (Linux only); the
byte language model on eight texts of 2,048 bytes; one clip through the multimodal autoencoder, encoded once and encoded
again for each of 128 chunks, as the official notebook does, by transformers and by this library (16 of the chunks,
which are alike, times 8); and sampling from a Perceiver AR of 2,048 tokens with and without its cache. float32. Each
work has a process of its own, since what a process did before decides how much new memory the system has to clear and
map for it; what is compared is interleaved there, and where it computes the same, that is checked first. The least time
of each counts: of so many rounds, three times as many of the language model, at most two of clips and sampling. Ends
with a line a work.
"""

import argparse
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import record
import torch
from attention import interleaved, resident
from torch import Tensor

from perceivers.elements import Batch, Elements
from perceivers.models.presets import preset
from perceivers.nn.stem import windows_around

CHUNKS, QUICK_CHUNKS = 128, 16
# So many of the chunks are measured where each encodes anew.
MEASURED = 16
# float32 sums in another order, and sines in float32 there: logits may differ by so much of the largest.
TOLERANCE = 1e-4
Works = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, small sizes, nothing recorded")
    parser.add_argument("--work", choices=WORKS, help="only print the seconds of this work, as JSON")
    parser.add_argument("--peak", choices=("ours", "transformers"), help="only print the peak bytes of its flow")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peers.need("transformers", "transformers>=5")
    if arguments.peak:
        print(peak_here(arguments.peak, arguments.quick))
        return
    if arguments.work:
        print(json.dumps(measured(arguments.work, arguments.rounds, arguments.quick)))
        return
    run(arguments.threads, 1 if arguments.quick else arguments.rounds, arguments.quick)


def run(threads: int, rounds: int, quick: bool) -> None:
    """All works: measured, printed and, unless `quick`, recorded."""
    seconds: dict[str, dict[str, dict[str, float]]] = {}
    # What differs least is measured most often, what takes minutes least.
    few = min(rounds, 2)
    turns = {"optical flow": rounds, "language": rounds if quick else 3 * rounds, "multimodal": few, "sampling": few}
    for name in WORKS:
        said = apart(["--work", name, "--threads", str(threads), "--rounds", str(turns[name])], quick)
        seconds[name] = json.loads(said[-1])
        for by, found in seconds[name].items():
            print(f"{name:<14}{by:<24}{found['min']:>10.3f}{found['median']:>10.3f} s", flush=True)
    peaks = {name: peak_of(name, threads, quick) for name in ("ours", "transformers")}
    if not quick:
        record.write("io_models", {"rounds": turns, "seed": 0, "seconds": seconds, "flow_peak_bytes": peaks})
    tails = {name: f"(min of {number}{', small sizes' if quick else ''})" for name, number in turns.items()}
    ratio = lambda work, slow, fast="ours": seconds[work][slow]["min"] / seconds[work][fast]["min"]  # noqa: E731
    print(
        f"optical flow: ratio {ratio('optical flow', 'transformers'):.2f} against transformers, "
        f"peak memory ratio {peaks['transformers'] / peaks['ours']:.2f} {tails['optical flow']}"
    )
    print(
        f"byte language model: ratio {ratio('language', 'transformers'):.2f} against transformers {tails['language']}"
    )
    again = [ratio("multimodal", by, "encoded once") for by in ("transformers", "encoded for each chunk")]
    print(
        f"multimodal autoencoding: ratio {again[0]:.2f} against transformers encoding for each of "
        f"{QUICK_CHUNKS if quick else CHUNKS} chunks, {again[1]:.2f} against doing so here {tails['multimodal']}"
    )
    print(
        f"sampling: ratio {ratio('sampling', 'without cache', 'with cache'):.2f} against no cache {tails['sampling']}"
    )


def measured(name: str, rounds: int, quick: bool) -> dict[str, dict[str, float]]:
    """Seconds of what one work compares, in this process."""
    with torch.inference_mode():
        works = WORKS[name](quick)
        if name in ("optical flow", "language"):
            check([work() for work in works.values()])
        seconds = interleaved(works, rounds)
    return of_all_chunks(seconds, quick) if name == "multimodal" else seconds


def apart(arguments: list[str], quick: bool) -> list[str]:
    """The lines that this script prints with those arguments, in a process of its own."""
    command = [sys.executable, __file__, *arguments, *(["--quick"] if quick else [])]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def of_all_chunks(seconds: dict[str, dict[str, float]], quick: bool) -> dict[str, dict[str, float]]:
    """Seconds of all chunks, where only some were measured."""
    factor = (QUICK_CHUNKS if quick else CHUNKS) / MEASURED
    some = {by: {n: s * factor for n, s in found.items()} for by, found in seconds.items() if by != "encoded once"}
    return {**seconds, **some}


def check(answers: list[Tensor], tolerance: float = TOLERANCE) -> None:
    """An error where they are not the same."""
    first, *others = answers
    for other in others:
        difference = float((first - other).abs().max() / first.abs().max())
        if not difference <= tolerance:
            raise AssertionError(f"answers differ by {difference:.1e} of the largest, over {tolerance:.0e}.")


def flow(quick: bool, device: str = "cpu") -> Works:
    """One pair of images, all pixels asked for."""
    spec = changed("perceiver-io-flow", quick, {"layers": 2})
    size = [92, 124] if quick else [368, 496]
    spec["inputs"]["pair"] |= {"size": size}
    spec["outputs"]["flow"] |= {"pixels": 1.0}
    ours = peers.drawn(spec, device).eval()
    theirs = peers.twin(ours)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    batch = ours.collate([{"pair": list(images)}]).to(ours.device)
    frames = torch.from_numpy(images).float() / 127.5 - 1
    patches = (
        torch.stack([windows_around(frame[None], 3) for frame in frames], dim=1).movedim(-1, 2).contiguous().to(device)
    )
    return {"ours": lambda: ours(batch)["flow"], "transformers": lambda: theirs(inputs=patches).logits}


def language(quick: bool, device: str = "cpu") -> Works:
    """Eight texts as long as the model reads."""
    spec = changed("perceiver-io-language", quick, {"layers": 2})
    spec["outputs"]["text"] |= {"mask_queries": False}
    ours = peers.drawn(spec, device).eval()
    theirs = peers.twin(ours)
    ids = torch.randint(6, 262, (2 if quick else 8, 2048), generator=torch.Generator().manual_seed(2)).to(device)
    batch = Batch({"text": Elements(ids[..., None], grid=(2048,))}, len(ids))
    return {"ours": lambda: ours(batch)["text"], "transformers": lambda: theirs(input_ids=ids).logits}


def multimodal(quick: bool, device: str = "cpu") -> Works:
    """One clip: all of it decoded from latents that are kept; and `MEASURED` chunks of points that each encode anew."""
    spec = changed("perceiver-io-multimodal", quick, {"layers": 2})
    if quick:
        spec["inputs"]["image"] |= {"size": [16, 24, 24]}
        spec["outputs"]["image"] |= {"size": [16, 24, 24]}
    ours = peers.drawn(spec, device).eval()
    theirs = peers.twin(ours)
    generator = np.random.default_rng(0)
    size = ours.spec.outputs["image"].size  # pyright: ignore[reportAttributeAccessIssue]
    clip = {
        "audio": generator.uniform(-1, 1, (30_720, 1)).astype(np.float32),
        "image": generator.integers(0, 256, (*size, 3), np.uint8),
    }
    batch = ours.collate([clip]).to(ours.device)
    pixels, patches, chunks = int(np.prod(size)), 1920, QUICK_CHUNKS if quick else CHUNKS

    def points(chunk: int) -> dict[str, Tensor]:
        bounds = {"image": pixels, "audio": patches}
        return {n: torch.arange(chunk * m // chunks, (chunk + 1) * m // chunks) for n, m in bounds.items()}

    def whole() -> Tensor:
        return ours.decode(ours.encode(batch), chunk=pixels // chunks)["image"].flatten(1, 3)

    def here(chunk: int) -> Tensor:
        return ours.decode(ours.encode(batch), points=points(chunk))["image"]

    frames = torch.from_numpy(clip["image"]).to(device).float().div(255).movedim(-1, 1)[None]
    given = {"image": frames, "audio": torch.from_numpy(clip["audio"]).to(device)[None]}
    given["label"] = torch.zeros(1, 700, device=device)

    def there(chunk: int) -> Tensor:
        return theirs(inputs=given, subsampled_output_points={**points(chunk), "label": None}).logits["image"]

    with torch.inference_mode():
        # Few pixels lie far apart, where sines in float32 are least exact.
        check([here(0).flatten(), there(0).flatten()], 10 * TOLERANCE if quick else TOLERANCE)
    return {
        "encoded once": whole,
        "transformers": lambda: [there(chunk) for chunk in range(MEASURED)],
        "encoded for each chunk": lambda: [here(chunk) for chunk in range(MEASURED)],
    }


def sampling(quick: bool, device: str = "cpu") -> Works:
    """Tokens that follow a prompt of 1,024, greedily, from a model of 2,048."""
    width, layers, count = (128, 2, 8) if quick else (512, 12, 64)
    spec = {
        "inputs": {
            "tokens": {
                "kind": "tokens",
                "vocabulary": 259,
                "channels": width,
                "length": 2048,
                "position": {"kind": "rotary"},
            }
        },
        "latents": {"count": 1024, "channels": width},
        "encoder": {"kind": "autoregressive", "layers": layers, "self_attend": {"heads": 8}, "cross": {"heads": 8}},
        "outputs": {"next": {"kind": "next_token", "vocabulary": 259}},
    }
    model = peers.drawn(spec, device).eval()
    prompt = np.random.default_rng(0).integers(0, 256, 1024, np.uint8)
    return {
        "with cache": lambda: model.generate([prompt], count, seed=0),  # pyright: ignore[reportCallIssue]
        "without cache": lambda: model.generate([prompt], count, cache=False, seed=0),  # pyright: ignore[reportCallIssue]
    }


def changed(name: str, quick: bool, encoder: dict[str, Any]) -> dict[str, Any]:
    """A preset's spec as data that can be changed; quick: with a smaller encoder."""
    spec = preset(name).build_spec().model_dump(mode="json")
    if quick:
        spec["encoder"] |= encoder
    return spec


def peak_of(name: str, threads: int, quick: bool) -> int:
    """Peak bytes above the weights of one flow, in a process of its own."""
    return int(apart(["--peak", name, "--threads", str(threads)], quick)[-1])


def peak_here(name: str, quick: bool) -> int:
    """The same in this process."""
    with torch.inference_mode():
        # What is loaded with the first call is the library's, not the model's.
        flow(quick=True)[name]()
        work = flow(quick)[name]
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        # 5: the kernel forgets the highest mark so far.
        Path("/proc/self/clear_refs").write_text("5")
        work()
    return resident("VmHWM") - before


WORKS = {"optical flow": flow, "language": language, "multimodal": multimodal, "sampling": sampling}

if __name__ == "__main__":
    main()
