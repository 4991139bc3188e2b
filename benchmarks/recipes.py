"""What the recipes reach: trains and evaluates each, and records the test score and the time.

    python benchmarks/recipes.py [NAME …] [--suffix TEXT] [--quick] [key=value …]

NAMEs are files in recipes/ without .yaml; default: all. The model that is scored is the one that was best on the
validation split; the test split is looked at once.
"""

import argparse
import tempfile
from pathlib import Path

import record

import perceivers

RECIPES = Path(__file__).parent.parent / "recipes"


def run(name: str, overrides: list[str], suffix: str, quick: bool) -> None:
    """Train, evaluate, record, print."""
    with tempfile.TemporaryDirectory() as folder:
        result = perceivers.train(RECIPES / f"{name}.yaml", out=f"{folder}/{name}", overrides=overrides)
        scores = perceivers.evaluate(result.run, quiet=True)
    measured = {
        "recipe": name,
        "overrides": overrides,
        "seed": 0,
        "seconds": round(result.seconds, 1),
        "steps": result.steps,
        "validation": {result.metric: result.best},
        "test_samples": scores["samples"],
        "test": scores["scores"],
        "without": scores["without"],
    }
    if not quick:
        record.write(f"{name}{suffix}", measured)
    accuracy = next(iter(scores["scores"].values()))["accuracy"]
    print(f"{name}{suffix}: accuracy {accuracy:.4f} in {result.seconds:.0f} s", flush=True)
    for missing, group in scores["without"].items():
        print(f"{name}{suffix} without {missing}: accuracy {next(iter(group.values()))['accuracy']:.4f}", flush=True)


def main() -> None:
    """Run the named recipes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="recipes, and overrides such as training.epochs=1")
    parser.add_argument("--suffix", default="", help="added to the name of the result file")
    parser.add_argument("--quick", action="store_true", help="three steps each, to see that they run")
    arguments = parser.parse_args()
    overrides = [n for n in arguments.names if "=" in n] + [
        "training.epochs=null",
        "training.steps=3",
    ] * arguments.quick
    names = [n for n in arguments.names if "=" not in n] or sorted(p.stem for p in RECIPES.glob("*.yaml"))
    for name in names:
        run(name, overrides, arguments.suffix, arguments.quick)


if __name__ == "__main__":
    main()
