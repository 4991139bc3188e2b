"""How long a released preset takes to open, beside only reading its file.

    python benchmarks/loading.py [--quick]

Each released Perceiver IO is saved with drawn weights at full size, then read (`Path.read_bytes`) and opened
(`perceivers.load`: built, checked against its SHA-256, ready to answer) in turn, both from the page cache. It ends with
a line for each preset: `load NAME: ratio R of reading its F MB (min of K)`.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import record
import torch
from attention import interleaved

import perceivers
from perceivers.models.build import build, fill
from perceivers.models.presets import RELEASED, presets
from perceivers.models.weights import WEIGHTS, save

QUICK = "perceiver-io-multimodal"


def main() -> None:
    """Measure each, print, and record unless `--quick`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help=f"three rounds of {QUICK} alone, nothing recorded")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    names = [QUICK] if arguments.quick else [name for name, row in presets().items() if row.licence == RELEASED]
    found = {name: measured(name, rounds) for name in names}
    print(f"{'preset':<32}{'MB':>8}{'read s':>10}{'load s':>10}")
    for name, row in found.items():
        print(f"{name:<32}{row['megabytes']:>8.0f}{row['read']:>10.3f}{row['load']:>10.3f}")
    for name, row in found.items():
        ratio, size = row["load"] / row["read"], row["megabytes"]
        print(f"load {name}: ratio {ratio:.2f} of reading its {size:.0f} MB (min of {rounds})")
    if not arguments.quick:
        record.write("loading", {"rounds": rounds, "presets": found})


def measured(name: str, rounds: int) -> dict[str, float]:
    """The least seconds of reading and of loading, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        path = saved(name, Path(folder) / "model")
        works: dict[str, Callable[[], object]] = {
            "read": (path / WEIGHTS).read_bytes,
            "load": lambda: perceivers.load(path),
        }
        seconds = {work: found["min"] for work, found in interleaved(works, rounds).items()}
        return {"megabytes": (path / WEIGHTS).stat().st_size / 1e6, **seconds}


def saved(name: str, folder: Path) -> Path:
    """A model directory of that preset, with drawn weights: uniform, which is fast."""
    model = build(presets()[name].build_spec(), device="meta")
    torch.manual_seed(0)
    fill(model, {key: torch.rand(like.shape).to(like.dtype) for key, like in model.state_dict().items()})
    return save(model, folder)


if __name__ == "__main__":
    main()
