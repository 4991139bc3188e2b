"""Which look at the validation split was best, and for how long there was none better."""

from dataclasses import asdict, dataclass
from typing import Any

from perceivers.models.spec import Spec
from perceivers.training.scoring import Scores


@dataclass
class History:
    """The early-stopping history. With one output its headline metric decides, with several the weighted loss."""

    metric: str = ""
    best: float | None = None
    best_step: int = 0
    waited: int = 0

    def add(self, step: int, spec: Spec, scores: Scores) -> bool:
        """Note a look; True when it is the best so far. A score that is not a number is never the best."""
        self.metric, value, larger = _judged(spec, scores)
        better = value == value and (self.best is None or (value > self.best if larger else value < self.best))
        if better:
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1
        return better

    def describe(self) -> str:
        """For the progress line: `best accuracy 0.9712`."""
        return f"best {self.metric} {self.best:.4f}" if self.best is not None else ""

    def to_state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "History":
        """Back from `to_state`."""
        return cls(**state)


def _judged(spec: Spec, scores: Scores) -> tuple[str, float, bool]:
    if len(spec.outputs) == 1:
        name, output = next(iter(spec.outputs.items()))
        metric, way = output.headline
        if metric in scores.values.get(name, {}):
            return metric, scores.values[name][metric], way == "max"
    return "loss", scores.loss, False
