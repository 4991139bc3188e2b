"""The recipe: spec + data + training + evaluation in one YAML file that runs. Data only: it never runs code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from perceivers.data.mix import MixSettings
from perceivers.data.settings import DataSettings
from perceivers.errors import SpecError, near_miss
from perceivers.inputs import AnyAugmentation
from perceivers.models.presets import written_out
from perceivers.models.spec import Spec
from perceivers.plain_yaml import read_yaml, yaml_text
from perceivers.settings import Settings, parse_settings
from perceivers.training.optimisers import OptimiserSettings
from perceivers.training.schedules import Cosine, ScheduleSettings

# Of a moment's running mean.
Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(Settings):
    """How the weights are found."""

    epochs: PositiveFloat | None = None
    """Passes over the training split; steps instead is allowed; neither: 10 epochs."""
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 64
    optimiser: Literal["adamw", "lamb"] = "adamw"
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Not applied to biases and norms; applied to latents and positions [official ImageNet recipe]."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: PositiveFloat | None = None
    """None: 1e-8 for adamw, 1e-6 for lamb."""
    schedule: ScheduleSettings = Cosine(warmup_steps=0.05)
    clip: PositiveFloat | None = 1.0
    """Largest global gradient norm; None: no clipping."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the averaged weights, which are then the ones evaluated and saved; None: no averaging."""
    input_dropout: Mapping[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    """Probability per input of being absent for a sample; never all of a sample's inputs at once."""
    augment: Mapping[str, AnyAugmentation] = Field(default_factory=dict)
    """Per input."""
    mix: MixSettings = MixSettings()
    """MixUp and CutMix, for models of one image input and category outputs."""
    evaluate_every: PositiveInt | None = None
    """Steps between looks at the validation split; None: once an epoch."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints; None: with every look at the validation split."""
    patience: PositiveInt | None = None
    """Stop after this many looks without a better score; None: never."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    start_from: str | None = None
    """A model directory or run folder to begin with, relative to the recipe: weights of the same names and shapes are
    taken over, and statistics and classes of the inputs. None: all weights are drawn."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of weights, order, augmentation and dropout."""
    threads: PositiveInt | None = None
    """CPU threads; None: as torch finds. Bit-identical resumption needs the same number."""
    memory_budget: PositiveFloat | None = None
    """GB that training should keep within, by estimate (`perceivers plan`): keys and values of all elements and what
    latent blocks keep for the backward pass are then made again instead of kept, as far as needed. None: no limit."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: CUDA when there is one, else the CPU."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both; set the other to null (training.epochs=null)")
        return self

    def optimiser_settings(self) -> OptimiserSettings:
        """The part that the optimiser needs."""
        return OptimiserSettings(
            kind=self.optimiser, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas, eps=self.eps
        )

    def total_steps(self, rows: int) -> int:
        """Steps of the whole run over a training split of `rows`."""
        if self.steps is not None:
            return self.steps
        return max(round((self.epochs or 10.0) * -(-rows // self.batch_size)), 1)


class EvaluationSettings(Settings):
    """How the result is scored."""

    split: Literal["train", "validation", "test"] = "test"
    batch_size: PositiveInt = 256


class Recipe(Settings):
    """A run: what the model is, what it is trained on, how, and how it is scored."""

    model: Annotated[Spec, BeforeValidator(written_out)]
    data: DataSettings
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for part, names in (("input_dropout", self.training.input_dropout), ("augment", self.training.augment)):
            for name in names:
                if name not in self.model.inputs:
                    raise ValueError(
                        f"training.{part} names '{name}', which is no input.{near_miss(name, self.model.inputs)}"
                    )
        for name, setting in self.training.augment.items():
            told = [output for output, kind in self.model.outputs.items() if kind.of_input != name]
            if told and self.model.inputs[name].companions(setting):
                raise ValueError(
                    f"training.augment.{name} puts several samples together, so the target of output '{told[0]}' would "
                    "be that of one of them; leave it out, or have only outputs that guess what is hidden of the input"
                )
        if len(self.model.inputs) == 1 and any(self.training.input_dropout.values()):
            raise ValueError(
                "training.input_dropout does nothing with one input: a sample never loses all that it has; leave it out"
            )
        return self


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `a.b=value` overrides. Raises `SpecError` naming file, line or key."""
    if path.is_dir():
        raise SpecError(
            f"'{path}' is a folder, and a recipe is a YAML file. To go on with the run in it: "
            f"perceivers train RECIPE --out {path} --resume"
        )
    if not path.is_file():
        near = near_miss(path.name, [p.name for p in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else ""
        raise SpecError(f"there is no recipe '{path}'.{near}")
    try:
        data = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path}: not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); save it as UTF-8."
        ) from None
    if not isinstance(data, dict):
        raise SpecError(f"{path}: a recipe is a mapping with the keys model, data, training and evaluation.")
    return as_recipe(with_overrides(data, overrides), str(path))


def as_recipe(data: "Recipe | Mapping[str, Any]", where: str = "recipe") -> Recipe:
    """A `Recipe` from a recipe or plain data. Raises `SpecError` with every fault and its near misses."""
    return parse_settings(Recipe, data, where)


def with_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`data` with each `a.b=value` set; the value is read as YAML. Unknown keys are found when the recipe is parsed.

    One override may come without a list.
    """
    changed = json.loads(json.dumps(data, default=str))
    for override in [overrides] if isinstance(overrides, str) else overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise SpecError(f"'{override}' is not an override; write key=value, such as training.lr=3e-4.")
        value = read_yaml(text, f"the override '{override}'")
        place = changed
        *path, last = key.split(".")
        for part in path:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[last] = value
    return changed


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML that `read_recipe` reads back to the same recipe; what is at its default is left out."""
    data = recipe.model_dump(mode="json", exclude_defaults=True)
    return yaml_text(_with_kinds(recipe, data))


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors. Committed as recipes/recipe.schema.json."""
    schema = Recipe.model_json_schema()
    of_preset = {"type": "object", "properties": {"preset": {"type": "string"}}, "required": ["preset"]}
    schema["properties"]["model"] = {"anyOf": [schema["properties"]["model"], of_preset, {"type": "string"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _with_kinds(settings: Any, data: Any) -> Any:
    """Put back every `kind`, which is a default of its class but chooses the class on reading."""
    if isinstance(settings, Settings):
        filled = {k: _with_kinds(getattr(settings, k), v) for k, v in data.items()}
        return {"kind": settings.kind, **filled} if "kind" in type(settings).model_fields else filled  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(settings, Mapping):
        return {k: _with_kinds(settings[k], v) for k, v in data.items()}
    return data
