"""The card of a trained model: what it is, what it was trained on, scores, limits, how to load."""

from perceivers.models.model import Model
from perceivers.training.recipe import Recipe
from perceivers.training.scoring import Scores


def model_card(model: Model, recipe: Recipe, rows: int, scores: Scores | None, step: int) -> str:
    """Markdown. Only what is known: the scores are of the validation split that chose this model."""
    count = sum(p.numel() for p in model.parameters())
    source = recipe.data.source or (recipe.data.splits.kind if recipe.data.splits else "files")
    lines = [f"# A Perceiver of {count:,} parameters", "", "## Inputs and outputs", ""]
    lines += [f"- input `{name}`: {kind.kind}" for name, kind in model.spec.inputs.items()]
    lines += [f"- output `{name}`: {kind.kind}" for name, kind in model.spec.outputs.items()]
    lines += [
        "",
        "## Training",
        "",
        f"Data: {source}, {rows:,} training sample{'s' if rows > 1 else ''}. Steps: {step}.",
        "",
    ]
    if model.trained is not None and model.trained.begun_with:
        lines += [*(f"- {line.strip()}" for line in model.trained.begun_with), ""]
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
    if len(model.spec.read_in_use) > 1 and model.trained is not None:
        shares = {name: model.trained.absent.get(name, 0.0) for name in sorted(model.spec.read_in_use)}
        told = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
        untried = ", ".join(model.trained.untried(shares))
        lines += [f"Share of training samples without each input: {told}.", ""]
        lines += [f"Answers without {untried} are untried." if untried else "It was trained to do without each.", ""]
    lines += ["Scores hold for data drawn as the training data was. Scores on a test split: `perceivers evaluate`.", ""]
    lines += ["## Use", "", "```python", "import perceivers", "", "model = perceivers.load('this folder')", "```", ""]
    return "\n".join(lines)
