"""How every benchmark writes its result: what was run, on which machine, how long, and what came out."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import perceivers

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Processor, cores, Python and torch; no names of hosts."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def commit(folder: Path = RESULTS.parent) -> str:
    """The commit that `folder` stands at, short, with a + where tracked files differ from it; "unknown" without git."""
    try:
        said = [
            subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout
            for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    # An earlier result that is measured anew changes nothing of what is measured.
    changed = [line for line in said[1].splitlines() if "benchmarks/results/" not in line]
    return said[0].strip() + "+" * bool(changed)


def write(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """results/<name>.json with command, commit, machine, threads, versions and date around the result."""
    folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", *[os.path.relpath(a) if Path(a).is_absolute() else a for a in sys.argv]])
    about = {
        "command": command,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "perceivers": perceivers.__version__,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**about, **result}, indent=1) + "\n")
    return path
