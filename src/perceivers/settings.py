"""Settings: plain validated data with errors written for the reader. Base of every spec, recipe and kind."""

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from perceivers.errors import SpecError, near_miss

SettingsType = TypeVar("SettingsType", bound="Settings")


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"'{name}' stands there more than once; name each once")
        seen.add(name)
    return names


# Names of columns or classes, each once: at least one, or at least two.
_UNIQUE: dict[str, Any] = {"uniqueItems": True}
Names = Annotated[tuple[str, ...], Field(min_length=1, json_schema_extra=_UNIQUE), AfterValidator(_each_once)]
SeveralNames = Annotated[tuple[str, ...], Field(min_length=2, json_schema_extra=_UNIQUE), AfterValidator(_each_once)]


class Settings(BaseModel):
    """Numbers and names only; unknown keys are errors; JSON both ways exactly. Never runs code."""

    # The text below each field goes into the JSON Schema, where editors show it.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

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
        lines = [f"  {_explain(settings, data, fault)}" for fault in error.errors(include_url=False)]
        count = f"{len(lines)} faults" if len(lines) > 1 else "a fault"
        raise SpecError(f"{where} has {count}:\n" + "\n".join(lines)) from None


def _explain(settings: type[BaseModel], data: Any, fault: Any) -> str:
    place = [str(part) for part in fault["loc"]]
    kind, context = fault["type"], fault.get("ctx", {})
    dotted = ".".join(_without_tags(settings, place)) or "all of it"
    if kind == "extra_forbidden":
        known = _fields_at(settings, place[:-1])
        hint = near_miss(place[-1], known)
        return f"{dotted}: unknown key.{hint} Known here: {', '.join(sorted(known)) or 'none'}."
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        return f"{dotted}: unknown kind '{context['tag']}'.{near_miss(context['tag'], tags)} Known: {', '.join(tags)}."
    if kind == "union_tag_not_found":
        # An override of a misspelt name makes a new entry beside the one that was meant.
        hint = near_miss(place[-1], [name for name in _names_beside(data, fault["loc"]) if name != place[-1]])
        return f"{dotted}: needs a 'kind'.{hint}"
    if kind in ("model_type", "model_attributes_type"):
        tags = {tag for model in _models_at(settings, place) for tag in _tags(model)}
        # The name alone of what is meant is the likeliest slip.
        meant = fault["input"] if fault["input"] in tags else min(tags) if len(tags) == 1 else None
        such = f", such as {{kind: {meant}}}" if meant else ""
        return f"{dotted}: wanted settings, a mapping of names to values{such} (got {fault['input']!r})."
    if kind == "missing":
        return f"{dotted}: is missing."
    if kind == "literal_error":
        expected = [name.strip(" '") for name in str(context["expected"]).replace(" or ", ",").split(",")]
        hint = near_miss(fault["input"], expected)
        return f"{dotted}: {fault['input']!r} is not one of {context['expected']}.{hint}"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], (Mapping, BaseModel)) else f" (got {fault['input']!r})"
    stop = "" if message.endswith((".", "?")) and not given else "."
    return f"{dotted}: {message[0].lower()}{message[1:]}{given}{stop}"


def _names_beside(data: Any, place: Sequence[Any]) -> list[str]:
    """The keys of the mapping in `data` that holds what stands at `place`; none where it leads elsewhere."""
    for part in place[:-1]:
        data = data.get(part) if isinstance(data, Mapping) else None
    return [str(key) for key in data] if isinstance(data, Mapping) else []


def _without_tags(settings: type[BaseModel], place: list[str]) -> list[str]:
    """The place without the union tags that pydantic puts into it."""
    kept: list[str] = []
    current: Any = settings
    for part in place:
        current, is_name = _step(current, part)
        if is_name:
            kept.append(part)
    return kept


def _fields_at(settings: type[BaseModel], place: list[str]) -> set[str]:
    """The names known where `place` leads, union tags included in `place`."""
    return {name for model in _models_at(settings, place) for name in model.model_fields}


def _models_at(settings: type[BaseModel], place: list[str]) -> list[type[BaseModel]]:
    """The settings that may stand where `place` leads, union tags included in `place`."""
    current: Any = settings
    for part in place:
        current, _ = _step(current, part)
    current = _bare(current)
    # `X | None` ends at a union; so does a place whose tag is missing.
    return [current] if _is_model(current) else [m for m in map(_bare, get_args(current)) if _is_model(m)]


def _step(current: Any, part: str) -> tuple[Any, bool]:
    """Where `part` leads from the annotation `current`, and whether a person wrote it (pydantic adds union tags)."""
    if _is_model(current):
        field = current.model_fields.get(part)
        return (None if field is None else field.annotation), True
    arguments = [_bare(a) for a in get_args(current) if a not in (type(None), Ellipsis)]
    if get_origin(current) is Annotated:
        return _step(arguments[0], part)
    if get_origin(current) in (Union, UnionType):
        tagged = [model for model in arguments if _is_model(model) and part in _tags(model)]
        if tagged:
            return tagged[0], False
        return _step(arguments[0], part) if len(arguments) == 1 else (None, True)
    # A mapping's values, a list's items.
    return (arguments[-1] if arguments else None), True


def _bare(annotation: Any) -> Any:
    """Without the marks of `Annotated`, such as a union's tags."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tags(model: type[BaseModel]) -> set[str]:
    field = model.model_fields.get("kind")
    return {str(tag) for tag in get_args(field.annotation)} if field else set()
