"""Settings: plain validated data with errors written for the reader. Base of every spec, recipe and kind."""

from collections.abc import Mapping
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from perceivers.errors import SpecError, near_miss

SettingsType = TypeVar("SettingsType", bound="Settings")


class Settings(BaseModel):
    """Numbers and names only; unknown keys are errors; JSON both ways exactly. Never runs code."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def with_changes(self, **changes: Any) -> Self:
        """A validated copy with the named fields changed."""
        return parse_settings(type(self), {**self.model_dump(), **changes}, type(self).__name__)


def parse_settings(settings: type[SettingsType], data: Any, where: str) -> SettingsType:
    """`data` as `settings`, or a `SpecError` that lists every fault by its dotted place, with near misses.

    `where` heads the message: a file name or 'spec'.
    """
    if isinstance(data, settings):
        return data
    if not isinstance(data, Mapping):
        raise SpecError(f"{where}: expected a mapping of names to values, got {type(data).__name__}.")
    try:
        return settings.model_validate(data)
    except ValidationError as error:
        lines = [f"  {_explain(settings, fault)}" for fault in error.errors(include_url=False)]
        count = f"{len(lines)} faults" if len(lines) > 1 else "a fault"
        raise SpecError(f"{where} has {count}:\n" + "\n".join(lines)) from None


def _explain(settings: type[BaseModel], fault: Any) -> str:
    place = [str(part) for part in fault["loc"]]
    kind, context = fault["type"], fault.get("ctx", {})
    dotted = ".".join(_without_tags(settings, place)) or "(top)"
    if kind == "extra_forbidden":
        known = _fields_at(settings, place[:-1])
        hint = near_miss(place[-1], known)
        return f"{dotted}: unknown key.{hint} Known here: {', '.join(sorted(known)) or 'none'}."
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        return f"{dotted}: unknown kind '{context['tag']}'.{near_miss(context['tag'], tags)} Known: {', '.join(tags)}."
    if kind == "union_tag_not_found":
        return f"{dotted}: needs a 'kind'."
    if kind == "missing":
        return f"{dotted}: is missing."
    if kind == "literal_error":
        expected = [name.strip(" '") for name in str(context["expected"]).replace(" or ", ",").split(",")]
        hint = near_miss(fault["input"], expected)
        return f"{dotted}: {fault['input']!r} is not one of {context['expected']}.{hint}"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], (Mapping, BaseModel)) else f" (got {fault['input']!r})"
    return f"{dotted}: {message[0].lower()}{message[1:]}{given}."


def _without_tags(settings: type[BaseModel], place: list[str]) -> list[str]:
    """The place without the union tags that pydantic puts into it."""
    kept: list[str] = []
    current: Any = settings
    for part in place:
        options = _models_in(current)
        tags = {tag for model in options for tag in _tags(model)}
        if part in tags and not any(part in model.model_fields for model in options):
            current = next(model for model in options if part in _tags(model))
            continue
        kept.append(part)
        current = _step(current, part)
    return kept


def _fields_at(settings: type[BaseModel], place: list[str]) -> set[str]:
    """The names known where `place` leads, union tags included in `place`."""
    current: Any = settings
    for part in place:
        options = _models_in(current)
        tagged = [model for model in options if part in _tags(model)]
        current = tagged[0] if tagged else _step(current, part)
    return {name for model in _models_in(current) for name in model.model_fields}


def _step(current: Any, part: str) -> Any:
    for model in _models_in(current):
        if part in model.model_fields:
            return model.model_fields[part].annotation
    return current if not (isinstance(current, type) and issubclass(current, BaseModel)) else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _tags(model: type[BaseModel]) -> set[str]:
    field = model.model_fields.get("kind")
    return {str(tag) for tag in get_args(field.annotation)} if field else set()
