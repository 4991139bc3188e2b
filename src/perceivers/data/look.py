"""The tables behind a name or a path, to look at before there is a recipe."""

from pathlib import Path

from perceivers.data.files import has_splits, read_splits, read_table
from perceivers.data.named import NAMED
from perceivers.data.table import Table
from perceivers.errors import DataError, near_miss

# The name of the one part of a table that has no splits.
ALL = "all"


def tables(what: str | Path) -> dict[str, Table]:
    """The tables of a named data set, or of a file or folder of one's own, by split; `all` where it has none.

    Raises `DataError` for what is neither, with the near miss.
    """
    path = Path(what)
    if str(what) in NAMED and not path.exists():
        return NAMED[str(what)].load()
    if not path.exists():
        known = ", ".join(NAMED)
        raise DataError(
            f"'{what}' is neither a file or folder nor a named data set.{near_miss(str(what), NAMED)} "
            f"Named data sets: {known}."
        )
    return read_splits(path) if has_splits(path) else {ALL: read_table(path)}
