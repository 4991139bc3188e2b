"""How long a released preset takes to open, beside only reading its file.

    python benchmarks/loading.py [--quick]

Each released Perceiver IO is saved with drawn weights at full size, then read (`Path.read_bytes`) and opened
(`perceivers.load`: built, checked against its checksum, ready to answer) in turn, both from the page cache, each time
in a process of its own, as models are opened: what comes second in a process may find memory that the first had. Not
counted: the imports. It ends with a line for each preset: `load NAME: ratio R of reading its F MB (min of K)`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record
import torch

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
    parser.add_argument("--once", nargs=2, metavar=("WORK", "MODEL"), help="only print the seconds of 'read' or 'load'")
    arguments = parser.parse_args()
    if arguments.once:
        print(once(arguments.once[0], Path(arguments.once[1])))
        return
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
    """The least seconds of reading and of loading, in turn, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = saved(name, Path(folder) / "model")
        seconds: dict[str, list[float]] = {"read": [], "load": []}
        for _ in range(rounds):
            for work, found in seconds.items():
                command = [sys.executable, __file__, "--once", work, str(path)]
                found.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        least = {work: min(found) for work, found in seconds.items()}
        return {"megabytes": (path / WEIGHTS).stat().st_size / 1e6, **least}


def once(work: str, model: Path) -> float:
    """The seconds of that work here and now."""
    start = time.perf_counter()
    # Kept until the clock has been read: to give memory back takes time too.
    _kept = (model / WEIGHTS).read_bytes() if work == "read" else perceivers.load(model)
    return time.perf_counter() - start


def saved(name: str, folder: Path) -> Path:
    """A model directory of that preset, with drawn weights: uniform, which is fast."""
    model = build(presets()[name].build_spec(), device="meta")
    torch.manual_seed(0)
    fill(model, {key: torch.rand(like.shape).to(like.dtype) for key, like in model.state_dict().items()})
    return save(model, folder)


if __name__ == "__main__":
    main()
