"""The text of a drafted recipe: YAML with the reason for each choice beside it."""

import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perceivers.inputs import KINDS
from perceivers.models.spec import as_spec
from perceivers.plain_yaml import read_yaml, yaml_text

if TYPE_CHECKING:
    from perceivers.training.draft import Draft

WIDTH = 100
INPUT_DROPOUT = 0.1
PATIENCE = 8
LOOKS = 20  # at the validation split, at most, in a whole run


@dataclass(frozen=True)
class _Sizes:
    """How large the model is and how long it trains, from the rows that there are."""

    latents: tuple[int, int]
    layers: int
    batch: int
    epochs: int
    steps: int


def recipe_draft_text(draft: "Draft", command: str, out: Path) -> str:
    """The recipe as YAML text. `command`: what drafted it; `out`: where it will stand."""
    sizes = _sizes(draft.rows)
    return "\n".join(
        [
            *_header(draft, command, out),
            *_model(draft, sizes),
            *_data(draft),
            *_training(draft, sizes),
            *_scoring(draft),
        ]
    )


def _sizes(rows: int) -> _Sizes:
    """Small data: a small model that sees each row often. Between 2,000 and 5,000 steps, or one whole epoch."""
    latents, layers = ((32, 64), 3) if rows < 5_000 else ((64, 96), 4) if rows < 50_000 else ((128, 128), 6)
    batch = 16 if rows < 500 else 32 if rows < 5_000 else 64 if rows < 50_000 else 128
    wanted = 2_000 if rows < 1_000 else 3_000 if rows < 10_000 else 5_000
    an_epoch = -(-rows // batch)
    epochs = max(round(wanted / an_epoch), 1)
    return _Sizes(latents, layers, batch, epochs, epochs * an_epoch)


def _header(draft: "Draft", command: str, out: Path) -> list[str]:
    recipe, run = shlex.quote(str(out)), shlex.quote(f"runs/{out.stem}")
    table = shlex.quote(draft.predict_on) if draft.predict_on else "TABLE"
    lines = _comment(f"Drafted by `{command}` from {draft.what}. Every line may be changed.")
    lines += [
        "#",
        f"#   train:     perceivers train {recipe}",
        f"#   evaluate:  perceivers evaluate {run}",
        f"#   predict:   perceivers predict {run} {table} --out answers.csv",
        f"#   cost:      perceivers plan {recipe}",
    ]
    if draft.unused:
        lines += ["#", "# Columns left out, and why:"]
        for column, why in draft.unused.items():
            lines += _comment(f"{column}: {why}", heading="#   ")
    return lines


def _model(draft: "Draft", sizes: _Sizes) -> list[str]:
    count, channels = sizes.latents
    lines = ["model:", "  inputs:"]
    for name, (reason, settings) in draft.inputs.items():
        lines += [*_comment(reason, "    "), *_yaml({name: settings}, "    ")]
    lines += _comment(
        f"{count} latents of {channels} channels read {_elements(draft)} elements a sample: a size for "
        f"{draft.rows:,} training rows. More rows can carry more latents, channels and layers.",
        "  ",
    )
    lines += [
        f"  latents: {{count: {count}, channels: {channels}}}",
        "  encoder:",
        f"    layers: {sizes.layers}",
        "    self_attend: {heads: 4}",
        "    dropout: 0.1",
        "  outputs:",
    ]
    for name, (reason, settings) in draft.outputs.items():
        lines += [*_comment(reason, "    "), *_yaml({name: settings}, "    ")]
    return lines


def _data(draft: "Draft") -> list[str]:
    lines = ["data:", *_yaml({"source": draft.source}, "  ")]
    if draft.columns:
        lines += ["  # Names of inputs and outputs, and the columns that they stand for:"]
        lines += _yaml({"columns": draft.columns}, "  ")
    reason, settings = draft.splits
    lines += _comment(f"Splits: {reason}.", "  ")
    if settings is not None:
        lines += _yaml({"splits": settings}, "  ")
        if draft.group is not None:
            column, why = draft.group
            lines += _comment(
                f"Rows of one '{column}' ({why}) may be alike, and then a random split flatters. If so keep them "
                "together, by this instead:",
                "  ",
            )
            lines += [f"  # {line}" for line in _yaml({"splits": {**settings, "group": column}}, "")]
        elif settings["kind"] == "fraction":
            lines += ["  # If several rows come from one person, device or place, keep them together: group: COLUMN"]
    return [*lines, "  # bad_rows: skip  # leave rows that cannot be read out, instead of stopping with a list of them"]


def _training(draft: "Draft", sizes: _Sizes) -> list[str]:
    lines = [
        "training:",
        f"  epochs: {sizes.epochs}  # {sizes.steps:,} steps of {sizes.batch} rows",
        f"  batch_size: {sizes.batch}",
        "  lr: 1.0e-3",
        "  ema: 0.99  # evaluate and save averaged weights: steadier on small data",
    ]
    every = -(-sizes.steps // LOOKS)
    if every > -(-draft.rows // sizes.batch):
        lines.append(
            f"  evaluate_every: {every}  # steps between looks at the validation split; the best model is kept"
        )
    if draft.validated:
        lines.append(
            f"  patience: {PATIENCE}  # stop after so many looks at the validation split without a better score"
        )
    if len(draft.inputs) > 1:
        lines += ["  # In training each input goes missing at times, so that answers without it can be trusted:"]
        lines += _yaml({"input_dropout": dict.fromkeys(draft.inputs, INPUT_DROPOUT)}, "  ")
    return lines + _augmentation(draft)


def _augmentation(draft: "Draft") -> list[str]:
    """Ideas only: what leaves the answer unchanged is not to be seen in a table."""
    ideas = {name: KINDS[settings["kind"]].augmentation_idea for name, (_, settings) in draft.inputs.items()}
    chosen = {name: idea for name, idea in ideas.items() if idea}
    if not chosen:
        return []
    lines = ["  # Small changes of training samples often help, where they leave the answer as it is:", "  # augment:"]
    return lines + [f"  #   {name}: {_flow(settings)}" for name, settings in chosen.items()]


def _scoring(draft: "Draft") -> list[str]:
    seen = "" if draft.scored == "test" else "  # there is no test split, so scores will flatter"
    return ["evaluation:", f"  split: {draft.scored}{seen}", ""]


def _elements(draft: "Draft") -> str:
    """M of all inputs together; of an irregular series, which has no fixed count, the usual one."""
    inputs = {name: settings for name, (_, settings) in draft.inputs.items()}
    spec = as_spec({"inputs": inputs, "outputs": {name: settings for name, (_, settings) in draft.outputs.items()}})
    count = sum(kind.elements() or draft.points.get(name, 0) for name, kind in spec.inputs.items())
    return f"{'about ' if draft.points else ''}{count:,}"


def _comment(text: str, indent: str = "", heading: str = "# ") -> list[str]:
    """Comment lines; whatever a file or column is called, it cannot end the comment."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    start = indent + heading
    return textwrap.wrap(clean, WIDTH + len(indent), initial_indent=start, subsequent_indent=f"{start}  ")


def _yaml(data: Mapping[str, Any], indent: str) -> list[str]:
    """Block style, except for the innermost lists and mappings, which stand on one line."""
    lines = []
    for key, value in data.items():
        style = None if isinstance(value, dict | list) else False
        dump = partial(yaml_text, {key: value}, style, WIDTH)
        # The dumper writes some line separators so that they read back as spaces; its escapes read back exactly.
        text = dump()
        text = text if read_yaml(text, key) == {key: value} else dump(unicode=False)
        lines += [f"{indent}{line}" for line in text.split("\n")[:-1]]
    return lines


def _flow(data: Mapping[str, Any]) -> str:
    return yaml_text(dict(data), flow=True, width=10 * WIDTH, unicode=False).strip()
