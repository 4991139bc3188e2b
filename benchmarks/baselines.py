"""A small CNN and a small ViT on Fashion-MNIST, raw and permuted, with the budget of the Perceiver on raw pixels.

    python benchmarks/baselines.py [cnn|vit …] [--permute SEED] [--threads N] [--quick]

The budget is the number of samples seen: the same epochs, batch size, optimiser, schedule, averaging of weights, label
smoothing and choice by the validation split as recipes/fashion-mnist-pixels.yaml, and like it no augmentation (flips
and crops mean nothing once pixels are permuted). The permutation is the same one.
"""

import argparse
import time
from pathlib import Path

import record
import torch
from torch import Tensor, nn

from perceivers.data.loader import Batches, Key, Order, evaluation_batches
from perceivers.data.prepare import Prepared, Split, prepare
from perceivers.training.ema import Ema
from perceivers.training.optimisers import build_optimiser
from perceivers.training.recipe import Recipe, read_recipe
from perceivers.training.schedules import lr_factor

RECIPE = Path(__file__).parent.parent / "recipes" / "fashion-mnist-pixels.yaml"


def cnn() -> nn.Module:
    """Two 5×5 convolutions with pooling and two linears: the classic small one, 0.4 M parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 49, 120), nn.ReLU(), nn.Linear(120, 10),
    )  # fmt: skip


class ViT(nn.Module):
    """4×4 patches, learned positions, three pre-norm layers of width 64, mean of tokens: 0.16 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, stride=4)
        self.position = nn.Parameter(torch.randn(49, 64) * 0.02)
        layer = nn.TransformerEncoderLayer(64, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) → (B, 10)."""
        return self.head(self.layers(self.patches(x).flatten(2).mT + self.position).mean(1))


MODELS = {"cnn": cnn, "vit": ViT}


def images(values: Tensor) -> Tensor:
    """(B, 784, 1) uint8 → (B, 1, 28, 28), standardised as roughly as every tutorial does."""
    return (values.float().squeeze(-1).unflatten(1, (28, 28))[:, None] - 72.9) / 90.0


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of right answers on a split."""
    model.eval()
    right = 0
    for batch in evaluation_batches(split, 256):
        right += int((model(images(batch.inputs["image"].values)).argmax(1) == batch.targets["label"]).sum())
    model.train()
    return right / len(split)


def fit(model: nn.Module, recipe: Recipe, prepared: Prepared) -> tuple[float, float]:
    """Train as the recipe says; the test accuracy of the model that was best on validation, and that accuracy."""
    settings, split = recipe.training, prepared.splits["train"]
    steps = settings.total_steps(len(split))
    optimiser = build_optimiser(model, settings.optimiser_settings())
    ema = Ema(model, settings.ema or 0.0)
    batches, order = Batches(split), Order(len(split), settings.batch_size, settings.seed, 0, steps)
    best, test = 0.0, 0.0
    for key in order:
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * lr_factor(key.step, steps, settings.schedule)
        step(model, optimiser, batches, key, settings.clip or 1.0)
        ema.update(key.step)
        if (key.step + 1) % order.steps_per_epoch == 0 or key.step + 1 == steps:
            with ema.swapped(model):
                found = accuracy(model, prepared.splits["validation"])
                if found > best:
                    best, test = found, accuracy(model, prepared.splits["test"])
            print(f"step {key.step + 1}/{steps}: validation {found:.4f}", flush=True)
    return test, best


def step(model: nn.Module, optimiser: torch.optim.Optimizer, batches: Batches, key: Key, clip: float) -> None:
    """One update."""
    batch = batches[key]
    logits = model(images(batch.inputs["image"].values))
    loss = nn.functional.cross_entropy(logits, batch.targets["label"], label_smoothing=0.1)
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()


def main() -> None:
    """Train the named models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--permute", type=int, help="seed of the fixed permutation of pixels")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="a tenth of an epoch, to see that it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    permute = [] if arguments.permute is None else [f"model.inputs.image.permute={arguments.permute}"]
    recipe = read_recipe(RECIPE, [*permute, *(["training.epochs=0.1"] if arguments.quick else [])])
    prepared = prepare(recipe.data, recipe.model.inputs, recipe.model.outputs, Path(), lambda *a: None)
    for name in arguments.names or MODELS:
        torch.manual_seed(recipe.training.seed)
        begun = time.monotonic()
        model = MODELS[name]()
        test, best = fit(model, recipe, prepared)
        label = f"fashion-mnist-{name}" + ("" if arguments.permute is None else "-permuted")
        result = {
            "model": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "permute": arguments.permute,
            "seed": recipe.training.seed,
            "epochs": recipe.training.epochs,
            "seconds": round(time.monotonic() - begun, 1),
            "validation": {"accuracy": best},
            "test": {"label": {"accuracy": test}},
        }
        if not arguments.quick:
            record.write(label, result)
        print(f"{label}: accuracy {test:.4f} in {result['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
