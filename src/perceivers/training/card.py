"""The card of a trained model: what it is, what it was trained on, scores, limits, how to load."""

from perceivers.models.model import Model
from perceivers.training.recipe import Recipe
from perceivers.training.scoring import Scores


def model_card(model: Model, recipe: Recipe, rows: int, scores: Scores | None, step: int) -> str:
    """Markdown. Only what is known: the scores are of the validation split that chose this model."""
    count = sum(p.numel() for p in model.parameters())
    lines = [f"# A Perceiver of {count:,} parameters", "", "## Inputs and outputs", ""]
    lines += [f"- input `{name}`: {kind.kind}" for name, kind in model.spec.inputs.items()]
    lines += [f"- output `{name}`: {kind.kind}" for name, kind in model.spec.outputs.items()]
    lines += [
        "",
        "## Training",
        "",
        f"Data: {recipe.data.source or 'files'}, {rows:,} training samples. Steps: {step}.",
        "",
    ]
    if scores is None:
        lines += ["There was no validation split, so these are the last weights and no score is known.", ""]
    else:
        lines += ["Scores on the validation split, which also chose this model among the run's:", ""]
        lines += [
            f"- {output} {name}: {value:.4f}"
            for output, group in scores.values.items()
            for name, value in group.items()
        ]
        lines += [""]
    lines += ["## Limits", ""]
    if len(model.spec.inputs) > 1 and model.trained is not None:
        never = [name for name in sorted(model.spec.inputs) if name not in model.trained.absence_seen]
        untried = (
            f"It was never trained without: {', '.join(never)}."
            if never
            else "It was trained to do without each input."
        )
        lines += [untried, ""]
    lines += ["Scores hold for data drawn as the training data was. Scores on a test split: `perceivers evaluate`.", ""]
    lines += ["## Use", "", "```python", "import perceivers", "", "model = perceivers.load('this folder')", "```", ""]
    return "\n".join(lines)
