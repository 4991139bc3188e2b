"""A kind of input and a kind of output that the library does not have, as CONTRIBUTING.md says to add them.

Run as a program it registers them, in the two lists that a contributor edits, before anything else is imported; then it
plans, trains, evaluates and predicts in the folder that it is given, and prints what came out as JSON.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from perceivers import inputs, outputs
from perceivers.inputs.base import Input, InputSettings, Sample, Seed, collate_grid, moments
from perceivers.inputs.grid import GridInput
from perceivers.inputs.lift import Conv
from perceivers.inputs.position import Fourier
from perceivers.outputs.base import OneQuery, OneQuerySettings, Sizes
from perceivers.settings import Settings

ROWS = [f"{cold} {cold}; {cold} {warm}" for cold in range(8) for warm in (20, 30, 40)]


class HeatAugmentation(Settings):
    """Every place a little warmer or colder."""

    kind: Literal["heat"] = "heat"
    degrees: float = 1.0


def warmed(sample: Sample, seed: Seed, degrees: float) -> Sample:
    return Sample(sample.values + np.float32(degrees * np.random.default_rng(seed).normal()), mask=sample.mask)


class HeatInput(InputSettings):
    """Temperatures on a grid, as text: rows between semicolons."""

    augmentation: ClassVar[type[Settings] | None] = HeatAugmentation
    mixable: ClassVar[bool] = True
    kind: Literal["heat"] = "heat"
    grid: tuple[int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def parse(self, value: Any) -> Sample:
        rows = [[float(number) for number in row.split()] for row in value.split(";")]
        return Sample(np.array(rows, np.float32)[..., None])

    def fit(self, samples: Iterable[Sample]) -> Self:
        mean, std = moments(samples, 1)
        return self.with_changes(mean=mean, std=std)

    def completed(self) -> tuple[Self, str | None]:
        return self.with_changes(mean=self.mean or (0.0,), std=self.std or (1.0,)), None

    def augmenter(self, setting: HeatAugmentation) -> Callable[[Sample, Seed], Sample]:
        return partial(warmed, degrees=setting.degrees)

    def elements(self) -> int:
        return math.prod(self._lift().cells(self.grid))

    def raw_grid(self) -> tuple[int, ...]:
        return self.grid

    def raw_numbers(self, elements: int) -> int:
        return math.prod(self.grid)

    def collate(self, samples: Sequence[Sample | None]) -> Any:
        return collate_grid(samples, self.grid, 1)

    def build(self) -> Input:
        lift = self._lift()
        return GridInput(self.mean, self.std, lift, Fourier(bands=2).build(lift.cells(self.grid)), add=False)

    def _lift(self) -> Any:
        return Conv(channels=4, kernel=3, stride=1, pool=False).build(2, 1)


class GradeOutput(OneQuerySettings):
    """One of several grades."""

    mixable: ClassVar[bool] = True
    curves: ClassVar[tuple[str, ...]] = ("hits",)
    kind: Literal["grade"] = "grade"
    grades: tuple[str, ...] | None = None

    def parse(self, value: Any) -> Any:
        return str(value) if self.grades is None else self.grades.index(str(value))

    def fit(self, targets: Iterable[Any]) -> Self:
        return self.with_labels(sorted(set(targets)))

    def completed(self, name: str) -> tuple[Self, str | None]:
        return self.with_labels(("a", "b")), None if self.grades else "assumed 2 grades"

    def labels(self) -> tuple[str, ...] | None:
        return self.grades

    def with_labels(self, labels: Sequence[str]) -> Self:
        return self if self.grades else self.with_changes(grades=tuple(labels))

    def collate(self, targets: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(targets, dtype=torch.int64)

    def soft(self, target: torch.Tensor) -> torch.Tensor:
        return F.one_hot(target, len(self.grades)).float()

    def build(self, sizes: Sizes) -> "GradeHead":
        return GradeHead(self, sizes)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        return "hits", "max"


class GradeHead(OneQuery):
    """Logits (B, grades)."""

    def __init__(self, settings: GradeOutput, sizes: Sizes) -> None:
        super().__init__(settings, sizes, len(settings.grades))
        self.grades = settings.grades

    def loss(self, prediction: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = target.float() if target.ndim == 2 else target
        return F.cross_entropy(prediction, wanted, reduction="none"), torch.ones(len(target), dtype=torch.bool)

    def metrics(self) -> dict[str, Any]:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

        count = len(self.grades)
        return {"hits": MulticlassAccuracy(count, average="micro"), "table": MulticlassConfusionMatrix(count)}

    def measure(self, metrics: Mapping[str, Any], prediction: torch.Tensor, target: torch.Tensor) -> None:
        for metric in metrics.values():
            metric.update(prediction, target)

    def scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        return {"hits": float(metrics["hits"].compute())}

    def confusion(self, metrics: Mapping[str, Any]) -> list[list[int]] | None:
        return metrics["table"].compute().tolist()

    def answer(self, name: str, prediction: torch.Tensor, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{name: self.grades[best]} for best in prediction.argmax(-1).tolist()]


def register() -> None:
    """The lines that a contributor adds."""
    inputs.KINDS["heat"] = HeatInput
    inputs.AnyInput = Annotated[inputs.ImageInput | HeatInput, Field(discriminator="kind")]
    inputs.AnyAugmentation = Annotated[inputs.ImageAugmentation | HeatAugmentation, Field(discriminator="kind")]
    outputs.KINDS["grade"] = GradeOutput
    outputs.AnyOutput = Annotated[outputs.NumberOutput | GradeOutput, Field(discriminator="kind")]


def main(folder: Path) -> None:
    import perceivers
    from perceivers.models.plan import plan

    (folder / "heat.csv").write_text("place,label\n" + "\n".join(f"{row},{row[-2:]}" for row in ROWS) + "\n")
    model = {
        "inputs": {"place": {"kind": "heat", "grid": [2, 2]}},
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"label": {"kind": "grade"}},
    }
    splits = {"kind": "fraction", "validation": 0.25, "test": 0.25, "stratify": "label"}
    training = {"steps": 4, "batch_size": 4, "augment": {"place": {"kind": "heat"}}, "mix": {"mixup": 0.2}}
    recipe = {"model": model, "data": {"source": "heat.csv", "splits": splits}, "training": training}
    cost = plan(model)
    # What a plan counts does not depend on statistics that it completes.
    known = {**model, "inputs": {"place": {"kind": "heat", "grid": [2, 2], "mean": [3.0], "std": [2.0]}}}
    assert plan(known).flops == cost.flops
    perceivers.train(recipe, out=folder / "run", quiet=True, base=folder)
    scores = perceivers.evaluate(folder / "run", quiet=True)
    answers = perceivers.predict(folder / "run", [{"place": row} for row in ROWS[:3]])
    found = {
        "flops": {part.name: part.flops for part in cost.parts},
        "assumed": cost.assumed,
        "labels": json.loads((folder / "run" / "model" / "labels.json").read_text()),
        "scores": scores["scores"],
        "classes": scores["classes"],
        "picture": (folder / "run" / "evaluation-test" / "confusion-label.png").is_file(),
        "answers": answers,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    register()
    main(Path(sys.argv[1]))
