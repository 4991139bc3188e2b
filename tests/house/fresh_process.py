"""What a fresh process has imported after some code, for the tests that hold imports late."""

import subprocess
import sys

HEAVY = frozenset(
    (
        "torch",
        "numpy",
        "lightning",
        "torchvision",
        "torchmetrics",
        "matplotlib",
        "sklearn",
        "PIL",
        "pyarrow",
        "datasets",
        "soundfile",
        "soxr",
        "av",
    )
)
_PRINT = "\nimport sys\nprint('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh process holds after running `code`, which must not fail."""
    ran = subprocess.run(
        [sys.executable, "-c", code + _PRINT], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.splitlines()[-1].split())
