"""What the outputs of named classes share: the names, learned from the training split where the recipe gives none."""

from abc import ABC
from collections.abc import Sequence
from typing import Self

from perceivers.errors import DataError, SpecError, near_miss
from perceivers.outputs.base import OneQuerySettings
from perceivers.settings import SeveralNames

# Of classes, in a message.
_MOST_NAMES = 20


class ClassesOutput(OneQuerySettings, ABC):
    """Settings of an output whose answers are names out of a list."""

    classes: SeveralNames | None = None
    """Class names in order, two at least. None: learned from the training split, sorted."""

    def index(self, name: str) -> int:
        """The place of a class. Raises `DataError` for one that is not there."""
        assert self.classes is not None, "classes are known here"
        if name in self.classes:
            return self.classes.index(name)
        known = ", ".join(self.classes[:_MOST_NAMES]) + (", …" if len(self.classes) > _MOST_NAMES else "")
        raise DataError(
            f"class '{name}' is not one that the model was made for.{near_miss(name, self.classes)} Classes: {known}."
        )

    def completed(self, name: str) -> tuple[Self, str | None]:
        """With two classes where there are none yet."""
        if self.classes is not None:
            return self, None
        return self.with_labels(("a", "b")), "the classes are learned from data: assumed 2"

    def labels(self) -> tuple[str, ...] | None:
        """The class names in order."""
        return self.classes

    def with_labels(self, labels: Sequence[str]) -> Self:
        """With those classes where there are none yet."""
        return self if self.classes is not None else self.with_changes(classes=tuple(labels))

    def known_classes(self) -> tuple[str, ...]:
        """The class names. Raises `SpecError` where there are none yet, so that nothing can be built."""
        if self.classes is None:
            kind = type(self).model_fields["kind"].default
            raise SpecError(
                f"{kind} output: classes are not known yet. perceivers.train learns them from the training split; "
                "to build without training give classes: [name, name, …]."
            )
        return self.classes
