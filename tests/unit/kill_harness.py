"""Run as a program: trains once in peace, then once killed by SIGKILL at random moments, and compares bit for bit.

    python kill_harness.py FOLDER KILLS SEED [worker]

`worker`: another recipe, whose batches another process prepares, with AdamW, early stopping and another seed.

Prints one JSON line. Each attempt is a fork, so that the imports are paid once; every process uses one thread.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import lightning.pytorch  # noqa: F401 - imported before forking, so that no attempt pays for it
import torch

from perceivers.training.journal import read_lines
from perceivers.training.run import train

torch.set_num_threads(1)

STEPS = 90
RECIPE = {
    "model": {
        "inputs": {
            "image": {
                "kind": "image",
                "size": [8, 8],
                "channels": 1,
                "lift": {"kind": "conv", "channels": 8, "kernel": 3},
            },
            "patched": {"kind": "image", "size": [8, 8], "channels": 1, "lift": {"kind": "patches", "size": [4, 4]}},
        },
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}, "dropout": 0.2},
        "outputs": {"label": {"kind": "category"}},
    },
    "data": {"source": "digits", "columns": {"patched": "image"}},
    "training": {
        "steps": STEPS,
        "batch_size": 32,
        "optimiser": "lamb",
        "lr": 0.01,
        "ema": 0.9,
        "input_dropout": {"image": 0.3, "patched": 0.3},
        "augment": {"image": {"kind": "image", "crop": {"kind": "pad", "padding": 1}, "erase": 0.5}},
        "evaluate_every": 20,
        "save_every": 7,
        "log_every": 2,
        "threads": 1,
        "seed": 3,
    },
}


def attempt(run: Path, resume: bool, at_step: int | None = None, later: float = 0.0) -> int:
    """Train in a fork; kill it `later` seconds after its journal reaches `at_step`. Returns the wait status."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(RECIPE, out=run, resume=resume, quiet=True)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if at_step is None:
        return os.waitpid(child, 0)[1]
    while reached(run) < at_step:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    time.sleep(later)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def reached(run: Path) -> int:
    """The last step in the journal, 0 when there is none yet."""
    return max((line["step"] for line in read_lines(run / "metrics.jsonl")), default=0)


def outcome(run: Path) -> dict[str, object]:
    """Every logged loss and score, the last checkpoint's weights and the best model's, as exact text."""
    exact = ("loss", "last_loss", "lr", "gradient_norm")
    lines = [
        (line["step"], line["group"], *(line[k].hex() for k in exact if k in line), line.get("label.accuracy"))
        for line in read_lines(run / "metrics.jsonl")
    ]
    last = max((run / "checkpoints").glob("checkpoint-*"))
    files = [last / "tensors.safetensors", last / "state.json", run / "model" / "model.safetensors"]
    return {"lines": lines, "files": [path.read_bytes().hex() for path in files]}


def main() -> None:
    """Compare a run in peace with one that is killed."""
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if sys.argv[4:] == ["worker"]:
        RECIPE["data"] |= {"workers": 1, "keep_bytes": 0}
        # So small a rate, and so many looks, that soon one is no better than the one before: patience ends the run.
        RECIPE["training"] |= {"optimiser": "adamw", "lr": 1e-4, "seed": 11, "evaluate_every": 4, "patience": 2}
    begun = time.monotonic()
    assert attempt(folder / "peace", resume=False) == 0, "the run in peace failed"
    ended = reached(folder / "peace")
    a_step = (time.monotonic() - begun) / ended
    draw = random.Random(seed)
    killed, resume = 0, False
    # The moments are drawn by step and a fraction of the time that some steps take, so that a busy machine has as many.
    for at_step in sorted(draw.randint(0, max(ended - 12, 0)) for _ in range(kills)):
        status = attempt(folder / "killed", resume, at_step, draw.uniform(0, 4 * a_step))
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        resume = (folder / "killed" / "recipe.yaml").is_file()
    status = attempt(folder / "killed", resume)
    peace, after = outcome(folder / "peace"), outcome(folder / "killed")
    report = {"kills": killed, "status": status, "steps": ended, "lines": len(peace["lines"])}
    report["same_lines"] = peace["lines"] == after["lines"]
    report["same_files"] = [a == b for a, b in zip(peace["files"], after["files"], strict=True)]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
