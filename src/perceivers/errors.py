"""The error family: every message says what was given, what was wanted, the near miss and the fix.

    PerceiversError            anything a user can put right
    ├── SpecError              a spec, recipe, preset or override that cannot be understood
    ├── DataError              a file, row, column or value that cannot be read
    │   ├── MissingFileError   a file that is named by a value and is not there
    │   └── ColumnError        one cell of several that a value is made of
    ├── ModelError             a model directory or checkpoint that cannot be trusted
    ├── TrainingError          a run that cannot go on
    └── GroupError             processes that work together and do not agree, or one that is lost

All are `ValueError`s, so callers that catch `ValueError` keep working. `assert` is for our own mistakes.
"""

import difflib
from collections.abc import Iterable

# Fewer letters are part of too many names.
_WORD = 4


class PerceiversError(ValueError):
    """Base of every error that a user can put right."""


class SpecError(PerceiversError):
    """A spec, recipe, preset name or override that cannot be understood."""


class DataError(PerceiversError):
    """A file, row, column or value that cannot be read. The message names all that are known."""


class MissingFileError(DataError):
    """A file that is named by a value and is not there."""


class ColumnError(DataError):
    """What is wrong with the cell of `column`, of a value that is made of several; `reason` is without its name."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"column '{column}': {reason}")
        self.column = column
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # Worker processes hand errors on; by default it would be made anew from its text alone.
        return type(self), (self.column, self.reason)


class ModelError(PerceiversError):
    """A model directory or checkpoint that is incomplete, altered or made for another model."""


class TrainingError(PerceiversError):
    """A training run that cannot start or cannot go on."""


class GroupError(PerceiversError):
    """Processes of one group that were given different things, or one of them that failed, died or stalled."""


def near_miss(name: str, known: Iterable[str], parts: bool = False) -> str:
    """`" Did you mean 'latents'?"` when another known name is close to `name`, else an empty string.

    Capitals are the least of slips: `ID` is close to `id`. Of names that differ in nothing else the closest is told.
    parts: where none is close, the only one that has `name` in it.
    """
    given = str(name)
    alike: dict[str, list[str]] = {}
    # A number is close to the text of it, which YAML keeps apart.
    for other in (str(other) for other in known if type(other) is not type(name) or other != name):
        alike.setdefault(other.casefold(), []).append(other)
    close = difflib.get_close_matches(given.casefold(), alike, n=1, cutoff=0.6)
    if parts and not close and len(given) >= _WORD:
        within = [other for other in alike if given.casefold() in other]
        close = within if len(within) == 1 else []
    if not close:
        return ""
    best = max(alike[close[0]], key=lambda other: difflib.SequenceMatcher(None, given, other).ratio())
    return f" Did you mean '{best}'?"


def unknown(what: str, name: str, known: Iterable[str], error: type[PerceiversError] = SpecError) -> PerceiversError:
    """An error for an unknown name: `unknown preset 'x'. Did you mean 'y'? Known: …`."""
    names = sorted(str(k) for k in known)
    listing = ", ".join(names) if names else "none"
    return error(f"unknown {what} '{name}'.{near_miss(name, names, parts=True)} Known: {listing}.")


def missing_extra(package: str, extra: str, purpose: str) -> PerceiversError:
    """An error for an optional package that is not installed, with the exact line that installs it.

    package: its name, or that of a module in it.
    """
    package = package.partition(".")[0]
    return PerceiversError(
        f"{purpose} needs the package '{package}', which is not installed. Install it with: "
        f"pip install 'perceivers[{extra}]'"
    )
