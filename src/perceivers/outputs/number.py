"""`number` as an output: one or several numbers, in their own units."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from perceivers.cells import cells_of, number, real_spread
from perceivers.elements import Elements
from perceivers.errors import DataError, SpecError, missing_extra
from perceivers.outputs.base import OneQuery, OneQuerySettings, Sizes
from perceivers.settings import Names

if TYPE_CHECKING:
    from torchmetrics import Metric

_LOSSES = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


class NumberOutput(OneQuerySettings):
    """Numbers standardised by the training split: the loss on that scale, answers in the columns' units."""

    curves: ClassVar[tuple[str, ...]] = ("r2",)
    kind: Literal["number"] = "number"
    columns: Names | None = None
    """Target columns. None: one column, with the output's name."""
    loss: Literal["l2", "l1", "huber"] = "l2"
    mean: tuple[float, ...] | None = None
    """Per column. None: learned from the training split."""
    std: tuple[PositiveFloat, ...] | None = None

    @property
    def names_columns(self) -> bool:
        """Whether `columns` names them."""
        return self.columns is not None

    def table_columns(self, name: str) -> list[str]:
        """The columns, or the output's own name."""
        return list(self.columns) if self.columns else [name]

    def parse(self, value: Any) -> tuple[float, ...]:
        """A number, a list or {column: number}; missing ones are NaN. Raises `DataError` for words and infinities."""
        # Without columns there is one number, and a mapping names it as the table does.
        names = self.columns or (next(iter(value)) if isinstance(value, Mapping) and value else "number",)
        numbers = tuple(number(cell) for cell in cells_of(value, names))
        if any(np.isinf(n) for n in numbers):
            raise DataError("the target is infinite; leave the cell empty when it is unknown.")
        return numbers

    def fit(self, targets: Iterable[Any]) -> Self:
        """With mean and standard deviation per column of the training targets, when the recipe gives none."""
        if self.mean is not None and self.std is not None:
            return self
        rows = np.array(list(targets), dtype=np.float64)
        real = np.isfinite(rows)
        if not real.any(0).all():
            raise DataError("a target column has no number in the training split; there is nothing to learn.")
        mean = np.mean(rows, axis=0, where=real)
        std = real_spread(mean, np.std(rows, axis=0, where=real), np.float64)
        if not (std > 0).any():
            raise DataError(
                f"the target is the same number ({mean.tolist()}) in every training row; there is nothing to learn."
            )
        return self.with_changes(mean=self.mean or mean.tolist(), std=self.std or np.where(std > 0, std, 1.0).tolist())

    def completed(self, name: str) -> tuple[Self, str | None]:
        """With mean 0 and standard deviation 1 where they are not known; no count depends on them."""
        width = len(self.table_columns(name))
        return self.with_changes(mean=self.mean or (0.0,) * width, std=self.std or (1.0,) * width), None

    def collate(self, targets: Sequence[Any]) -> Tensor:
        """(B, columns) float64 in the columns' units, since float32 cannot tell one second of 2026 from the next.

        NaN is unknown.
        """
        return torch.from_numpy(np.array(targets, dtype=np.float64))

    def build(self, sizes: Sizes) -> "NumberHead":
        """The module."""
        if self.mean is None or self.std is None:
            raise SpecError(
                "number output: mean and std are not known yet. perceivers.train learns them from the training split; "
                "to build without training give both, one number a column."
            )
        count = len(self.columns or ("number",))
        for name, given in (("mean", self.mean), ("std", self.std)):
            if len(given) != count:
                raise SpecError(f"number output: {name} has {len(given)} numbers for {count} columns.")
        return NumberHead(self, sizes)

    @property
    def headline(self) -> tuple[str, Literal["max", "min"]]:
        """Mean absolute error, the lower the better; of several columns on the scale of the training split."""
        return ("standardised_mae" if len(self.columns or ()) > 1 else "mae"), "min"


class NumberHead(OneQuery):
    """Numbers (B, columns) on the standardised scale until they are answered."""

    mean: Tensor
    std: Tensor

    def __init__(self, settings: NumberOutput, sizes: Sizes) -> None:
        assert settings.mean is not None, "built from complete settings"
        assert settings.std is not None, "built from complete settings"
        super().__init__(settings, sizes, len(settings.mean))
        self.columns = settings.columns
        self.several = len(settings.mean) > 1
        self.criterion = _LOSSES[settings.loss]
        self.register_buffer("mean", torch.tensor(settings.mean, dtype=torch.float64), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std, dtype=torch.float64), persistent=False)

    def loss(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen loss on the standardised scale, averaged over an example's known columns."""
        real = target.isfinite()
        wanted = torch.where(real, (target.double() - self.mean) / self.std, target.new_zeros(()))
        losses = self.criterion(prediction.float(), wanted.float(), reduction="none") * real
        return losses.sum(-1) / real.sum(-1).clamp(min=1), real.any(-1)

    def physical(self, prediction: Tensor) -> Tensor:
        """(B, columns) float64 in the columns' units."""
        return prediction.double() * self.std + self.mean

    def metrics(self) -> "dict[str, Metric]":
        """Mean absolute error, root mean squared error (the columns' units) and R².

        Several columns: of each one, `mae_column` and so on; and `standardised_mae`, in the training targets' standard
        deviations, over all of them.
        """
        try:
            from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torchmetrics", "train", "scoring") from None

        found: dict[str, Metric] = {"standardised_mae": MeanAbsoluteError()} if self.several else {}
        for end in self._endings():
            found |= {f"mae{end}": MeanAbsoluteError(), f"rmse{end}": MeanSquaredError(squared=False)}
            found[f"r2{end}"] = R2Score()
        return {name: metric.set_dtype(torch.float64) for name, metric in found.items()}

    def measure(self, metrics: "Mapping[str, Metric]", prediction: Tensor, target: Tensor) -> None:
        """Add a batch; unknown targets are left out."""
        real = target.isfinite()
        if self.several and bool(real.any()):
            wanted = (target.double() - self.mean) / self.std
            metrics["standardised_mae"].update(prediction.double()[real], wanted[real])
        # About the column's mean, which changes no score: R² adds up squares, and those of times of 1.7e9 s would leave
        # nothing of their differences.
        given, wanted = prediction.double() * self.std, target.double() - self.mean
        for column, end in enumerate(self._endings()):
            known = real[:, column]
            if bool(known.any()):
                for score in ("mae", "rmse", "r2"):
                    metrics[f"{score}{end}"].update(given[known, column], wanted[known, column])

    def scores(self, metrics: "Mapping[str, Metric]") -> dict[str, float]:
        """What the metrics say; of several columns also `r2`, the mean of theirs. A column without targets has none."""
        found = super().scores(metrics)
        shares = [value for name, value in found.items() if name.startswith("r2_")]
        return {**found, "r2": sum(shares) / len(shares)} if self.several and shares else found

    def _endings(self) -> list[str]:
        """What stands behind the name of a score of each column."""
        return [f"_{column}" for column in self.columns or ()] if self.several else [""]

    def answer(self, name: str, prediction: Tensor, inputs: Mapping[str, Elements]) -> list[dict[str, Any]]:
        """{name: number} a sample, or {name_column: number, …} for several columns."""
        columns = [f"{name}{end}" for end in self._endings()]
        return [dict(zip(columns, row, strict=True)) for row in self.physical(prediction).tolist()]
