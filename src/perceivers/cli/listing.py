"""Tables on standard output: as wide as the window, or as what they hold where there is none."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

# More than any line has.
_UNLIMITED = 10**6


def print_table(listing: Table) -> None:
    """Print a table. In a terminal its cells are folded to fit; a pipe or a file gets every line whole."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNLIMITED)
        if isinstance(listing.title, str):
            # A title is otherwise folded to the width of its table.
            listing.title = Text.from_markup(listing.title)
            listing.title.no_wrap, listing.title.overflow = True, "ignore"
    console.print(listing)
