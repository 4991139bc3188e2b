"""What the settings tables of the docs say: every settings class that a recipe reaches, its fields and defaults."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from perceivers.settings import Settings
from perceivers.training.recipe import Recipe

_MARK = re.compile(r"^<!-- settings: (\w+) -->$")
_ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+) \|$")


def reachable(settings: type[Settings] = Recipe) -> dict[str, type[Settings]]:
    """Class name → class, for every settings class that a recipe can hold."""
    found: dict[str, type[Settings]] = {}
    waiting = [settings]
    while waiting:
        current = waiting.pop()
        if current.__name__ in found:
            assert found[current.__name__] is current, f"two settings are called {current.__name__}"
            continue
        found[current.__name__] = current
        for field in current.model_fields.values():
            waiting.extend(_settings_in(field.annotation))
    return found


def _settings_in(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _settings_in(argument)


def fields(settings: type[Settings]) -> dict[str, str]:
    """Field → its default as the docs write it. `kind` is the section's own name."""
    return {name: default(settings, name) for name in settings.model_fields if name != "kind"}


def default(settings: type[BaseModel], name: str) -> str:
    """`needed`, or the default as YAML would have it: `64`, `none`, `{kind: pixels}`."""
    if settings.model_fields[name].is_required():
        return "needed"
    return f"`{_written(_plain_default(settings, name))}`"


def _written(value: Any) -> str:
    match value:
        case Settings():
            names = sorted(type(value).model_fields, key=lambda name: name != "kind")
            inner = {name: getattr(value, name) for name in names}
            changed = {n: v for n, v in inner.items() if n == "kind" or v != _plain_default(type(value), n)}
            return _written(changed)
        case None:
            return "null"
        case dict():
            return "{" + ", ".join(f"{name}: {_written(part)}" for name, part in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_written(part) for part in value) + "]"
        case str():
            return value
        case float():
            return f"{value:g}"
    return json.dumps(value)


def _plain_default(settings: type[BaseModel], name: str) -> Any:
    """Some defaults follow from other settings, which then have their own defaults."""
    given = {n: f.default for n, f in settings.model_fields.items() if f.default is not PydanticUndefined}
    return settings.model_fields[name].get_default(call_default_factory=True, validated_data=given)


def tables(page: Path) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """The tables below `<!-- settings: Name -->` marks: class name, field → (default, meaning)."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        match = _MARK.match(line)
        if match is None:
            continue
        rows = lines[number + 1 :]
        start = next(i for i, row in enumerate(rows) if row.startswith("|"))
        end = next((i for i, row in enumerate(rows) if i > start and not row.startswith("|")), len(rows))
        parsed = [_ROW.match(row) for row in rows[start + 2 : end]]
        assert all(parsed), f"{page.name}, table of {match[1]}: a row is not | `field` | default | meaning |"
        yield match[1], {row[1]: (row[2], row[3]) for row in parsed if row}
