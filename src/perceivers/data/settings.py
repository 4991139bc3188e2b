"""The `data` part of a recipe: which table, how it is split, which column is which input or output."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from perceivers.data.copy_task import CopySplits
from perceivers.data.splits import ColumnSplits, FileSplits, FractionSplits
from perceivers.settings import Settings

SplitSettings = Annotated[FileSplits | ColumnSplits | FractionSplits | CopySplits, Field(discriminator="kind")]


class DataSettings(Settings):
    """Where the samples come from."""

    source: str | None = None
    """A named data set, or a path (relative to the recipe) of a table, of a folder of class folders or of a saved
    `datasets` folder; None only with splits of kind `files` or `copy`."""
    splits: SplitSettings | None = None
    """None: the source's own splits, or 10 % validation and 10 % test drawn at random."""
    columns: Mapping[str, str] = Field(default_factory=dict)
    """Input or output name → column, where they differ. Kinds that read several columns name them themselves."""
    bad_rows: Literal["stop", "skip"] = "stop"
    """Rows that cannot be read: stop with a list of them, or leave them out, counted and reported."""
    workers: NonNegativeInt = 0
    """Processes that prepare batches; the batches are the same for any number."""
    keep_bytes: NonNegativeInt = 2_000_000_000
    """Decoded samples are kept in memory when the split needs no more than this; else they are decoded each time."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if isinstance(self.splits, FileSplits) and self.source is not None:
            raise ValueError("splits of kind files name the tables themselves; leave source out")
        if isinstance(self.splits, CopySplits) and self.source is not None:
            raise ValueError("splits of kind copy draw their sequences themselves; leave source out")
        return self
