"""`plan` of whatever names a model: a recipe, a preset or a spec."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perceivers.data.named import NAMED
from perceivers.errors import SpecError, near_miss
from perceivers.models.plan import Plan
from perceivers.models.plan import plan as plan_of_spec
from perceivers.models.presets import PRESETS, spec_of
from perceivers.models.spec import Spec, as_spec
from perceivers.training.recipe import Recipe, as_recipe, read_recipe, with_overrides

# What may be taken for a setting: the option that it is, and the setting of a recipe.
_BATCH = ("batch", "training.batch_size")
_OPTIONS = {"memory_budget": ("memory-budget", "training.memory_budget"), "batch": _BATCH, "batch_size": _BATCH}


def plan(
    what: "str | Path | Recipe | Spec | Mapping[str, Any]",
    overrides: Sequence[str] = (),
    batch: int | None = None,
    memory_budget: float | None = None,
) -> Plan:
    """Parameters, FLOPs and memory of a model, before anything is allocated; see `perceivers.models.plan.plan`.

    what: a recipe's file, a preset's name, a `Recipe`, a `Spec`, or plain data of either (a recipe has a `model`).
    overrides: `["model.latents.count=256", …]`; of a spec or preset `["latents.count=256", …]`. batch: samples; None:
    the recipe's batch size, or 1. memory_budget: GB that training should keep within; None: the recipe's. A recipe
    tells whether averaged weights are kept, and the classes of the named data
    set that it trains on. Raises `SpecError`.
    """
    found = _model(what, overrides)
    if isinstance(found, Spec):
        return plan_of_spec(found, 1 if batch is None else batch, budget=_bytes(memory_budget))
    training = found.training
    size = training.batch_size if batch is None else batch
    budget = _bytes(training.memory_budget if memory_budget is None else memory_budget)
    return plan_of_spec(_with_known_classes(found), size, averages=training.ema is not None, budget=budget)


def _bytes(budget: float | None) -> float | None:
    return None if budget is None else budget * 10**9


def _check_options(overrides: Sequence[str], of_recipe: bool) -> None:
    """Raise `SpecError` for an override that is an option of `plan`; a recipe's own settings may be overridden."""
    for override in [overrides] if isinstance(overrides, str) else overrides:
        key, _, value = override.partition("=")
        name = (key if of_recipe else key.removeprefix("training.")).replace("-", "_")
        if name in _OPTIONS:
            option, setting = _OPTIONS[name]
            own = f", or {setting}={value}" if of_recipe else ""
            raise SpecError(f"'{override}' is no setting of the model; write --{option} {value}{own}.")


def _model(what: "str | Path | Recipe | Spec | Mapping[str, Any]", overrides: Sequence[str]) -> Recipe | Spec:
    if isinstance(what, (str, Path)):
        path = Path(what)
        if str(what) in PRESETS and not path.is_file():
            _check_options(overrides, of_recipe=False)
            return as_spec(with_overrides(PRESETS[str(what)].spec, overrides), f"preset {what}")
        if not path.is_file() and path.suffix not in (".yaml", ".yml"):
            known = ", ".join(PRESETS)
            raise SpecError(
                f"'{what}' is neither a recipe file nor a preset.{near_miss(str(what), PRESETS)} Presets: {known}."
            )
        _check_options(overrides, of_recipe=True)
        return read_recipe(path, overrides)
    if not overrides and isinstance(what, (Recipe, Spec)):
        return what
    data = what.model_dump(mode="json") if isinstance(what, (Recipe, Spec)) else what
    changed = with_overrides(data, overrides) if overrides else data
    return as_recipe(changed) if "model" in data else spec_of(changed)


def _with_known_classes(recipe: Recipe) -> Spec:
    """The recipe's spec with the classes of a named data set, which are known without looking at its data."""
    spec, source = recipe.model, recipe.data.source
    if source not in NAMED:
        return spec
    known = {
        name: kind.with_labels(NAMED[source].classes)
        for name, kind in spec.outputs.items()
        if recipe.data.columns.get(name, name) in NAMED[source].outputs
    }
    return spec.with_changes(outputs={**spec.outputs, **known})
