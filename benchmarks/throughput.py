"""Samples a second: training against a bare loop over the same modules and prepared batches; and the data path alone.

    python benchmarks/throughput.py [RECIPE] [--steps N] [--rounds K] [--threads N]

The two loops are interleaved in one process, with the same number of threads (the recipe's, if it says), and the best
round of each counts. The bare loop is forward, loss,
backward, clip and the same optimiser on batches that lie ready; `perceivers.train` does all that a run does: reading
the next batch, augmentation, learning rate, averages, journal, progress.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import record
import torch
from torch import nn

import perceivers
from perceivers.data.loader import Augmenter, Batches, Order
from perceivers.data.prepare import prepare
from perceivers.training.optimisers import build_optimiser
from perceivers.training.recipe import read_recipe
from perceivers.training.scoring import total_loss

RECIPES = Path(__file__).parent.parent / "recipes"


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="fashion-mnist-conv")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: those of the recipe, or torch's")
    parser.add_argument("--quick", action="store_true", help="one short round")
    arguments = parser.parse_args()
    steps, rounds = (10, 1) if arguments.quick else (arguments.steps, arguments.rounds)
    path = RECIPES / f"{arguments.recipe}.yaml"
    recipe = read_recipe(path)
    settings = recipe.training
    torch.set_num_threads(arguments.threads or settings.threads or torch.get_num_threads())
    prepared = prepare(recipe.data, recipe.model.inputs, recipe.model.outputs, Path(), lambda *a: None)
    model = perceivers.build(
        {**recipe.model.model_dump(), "inputs": prepared.inputs, "outputs": prepared.outputs}, seed=0
    )
    split = prepared.splits["train"]
    source = Batches(split, Augmenter(prepared.inputs, settings.augment, settings.seed), settings.mix)
    keys = list(Order(len(split), settings.batch_size, settings.seed, 0, steps))
    begun = time.perf_counter()
    batches = [source[key] for key in keys]
    samples = sum(batch.size for batch in batches)
    data = samples / (time.perf_counter() - begun)
    optimiser = build_optimiser(model, settings.optimiser_settings())
    bare, ours = 0.0, 0.0
    for _ in range(rounds):
        begun = time.perf_counter()
        for batch in batches:
            loss = total_loss(model, model(batch), batch.targets)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip or 1.0)
            optimiser.step()
        bare = max(bare, samples / (time.perf_counter() - begun))
        ours = max(ours, trained(path, steps))
    result = {"recipe": arguments.recipe, "steps": steps, "rounds": rounds, "seed": 0}
    result |= {"bare": round(bare, 1), "train": round(ours, 1), "data_alone": round(data, 1)}
    result |= {"train_over_bare": round(ours / bare, 3), "data_over_bare": round(data / bare, 1)}
    if not arguments.quick:
        record.write(f"throughput-{arguments.recipe}", result)
    print(f"training: {ours / bare:.3f} of a bare loop ({ours:.0f} against {bare:.0f} samples/s)")
    print(f"data path alone: {data / bare:.1f} times what the model consumes ({data:.0f} samples/s)")


def trained(path: Path, steps: int) -> float:
    """Samples a second of `perceivers.train`, as its own journal gives them for the last step before evaluation."""
    changes = [f"training.steps={steps}", "training.epochs=null", f"training.evaluate_every={steps}"]
    changes.append(f"training.threads={torch.get_num_threads()}")
    with tempfile.TemporaryDirectory() as folder:
        perceivers.train(path, out=f"{folder}/run", overrides=[*changes, f"training.log_every={steps}"], quiet=True)
        lines = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    return next(line["samples_per_second"] for line in lines if line["group"] == "train")


if __name__ == "__main__":
    main()
