"""One training step, and everything that must happen around it, as lightning sees it.

Lightning drives the loop and the devices. What decides the future of a run (weights, optimiser, averages, random
states, position in the data, early-stopping history) is kept and restored here: see
docs/decisions/002-own-resumption.md.
"""

import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from perceivers.data.prepare import Prepared, Split
from perceivers.data.table import TRAIN, VALIDATION
from perceivers.elements import Batch
from perceivers.errors import TrainingError
from perceivers.models.model import Model
from perceivers.training import rng
from perceivers.training.checkpoints import write_checkpoint
from perceivers.training.dropout import drop_inputs
from perceivers.training.ema import Ema
from perceivers.training.history import History
from perceivers.training.journal import Journal, draw_curves
from perceivers.training.optimisers import build_optimiser
from perceivers.training.recipe import Recipe
from perceivers.training.reporter import Reporter, shown
from perceivers.training.resumption import made_with, told_changes
from perceivers.training.schedules import lr_factor
from perceivers.training.scoring import Scores, output_of, score, total_loss


class Training(pl.LightningModule):
    """Trains `model` by `recipe` on `prepared` in the run folder `run`; `state` is a checkpoint's, to go on from."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        run: Path,
        steps: int,
        prepared: Prepared,
        reporter: Reporter,
        state: dict[str, Any] | None,
        save_best: Callable[[Model, Scores | None, int], None],
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.run = run
        self.steps = steps
        self.validation = prepared.splits.get(VALIDATION)
        self.reporter = reporter
        self.resumed = state
        self.save_best = save_best
        self.done = 0 if state is None else int(state["step"])
        self.history = History() if state is None else History.from_state(state["history"])
        self.stopped_by: str | None = None
        self.samples = len(prepared.splits[TRAIN])
        self.steps_per_epoch = -(-self.samples // recipe.training.batch_size)
        self.handlers = _own_handlers()
        # Losses since the last line of the journal; its mean must not depend on where a run was stopped.
        self.losses: list[float] = [] if state is None else list(state["losses"])
        self.norm = 0.0
        # Asking the model for them takes longer than clipping them, when it is small.
        self.parameters_of_model = list(model.parameters())

    # -- lightning's hooks, in the order in which they are called ------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser, restored when the run goes on."""
        optimiser = build_optimiser(self.model, self.recipe.training.optimiser_settings())
        if self.resumed is not None:
            optimiser.load_state_dict(self.resumed["optimiser"])
        return optimiser

    def on_train_start(self) -> None:
        """Averages, journal and signals."""
        ema = self.recipe.training.ema
        self.ema = Ema(self.model, ema) if ema is not None else None
        if self.ema is not None and self.resumed is not None:
            self.ema.load_state_dict(self.resumed["ema"])
        if self.resumed is not None:
            for line in told_changes(self.resumed, self.recipe, self.steps, self.device):
                self.reporter.note(line)
        self.journal = Journal(self.run, self.done)
        # After lightning has set its own, which would end the step in the middle.
        for number in self.handlers:
            signal.signal(number, self._stop_by_signal)
        self.started, self.seen = time.monotonic(), 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Random states of the checkpoint before the first step; the step's learning rate before each."""
        if batch_idx == 0 and self.resumed is not None:
            rng.restore(self.resumed["rng"])
        settings = self.recipe.training
        rate = settings.lr * lr_factor(self.done, self.steps, settings.schedule)
        for group in self._optimiser().param_groups:
            group["lr"] = rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, some of its inputs dropped; of outputs with `sampled` queries, of those drawn now."""
        settings = self.recipe.training
        batch = drop_inputs(batch, settings.input_dropout, (settings.seed, self.done))
        points = self.model.drawn(batch.size)
        asked = {name: output_of(self.model, name).at_points(batch.targets[name], points[name]) for name in points}
        loss = total_loss(self.model, self.model(batch, points=points), {**batch.targets, **asked})
        self.loss = loss.detach()
        return loss

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip, and stop before the step when the loss or a gradient is not finite."""
        clip = self.recipe.training.clip
        norm = nn.utils.clip_grad_norm_(self.parameters_of_model, clip if clip is not None else float("inf"))
        # Both numbers at once, and only now: a device is waited for once a step.
        loss, self.norm = torch.stack([self.loss.double(), norm.double()]).tolist()
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss is {loss}")
        if not math.isfinite(self.norm):
            raise self._not_finite(f"the gradient norm is {self.norm}")
        self.losses.append(loss)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Average, log, look at the validation split, save, stop."""
        if self.ema is not None:
            self.ema.update(self.done)
        self.done += 1
        self.seen += batch.size
        self._log()
        settings = self.recipe.training
        last = self.done == self.steps
        looked = self.done % self.evaluate_every == 0 or last
        saved = looked or self.done % (settings.save_every or self.evaluate_every) == 0 or self.stopped_by
        if saved and not all(bool(tensor.isfinite().all()) for tensor in self.model.state_dict().values()):
            raise self._not_finite("a weight is not finite", self.done)
        if looked:
            self._look()
        # Once more, since early stopping is decided, and signals come, while looking.
        if saved or self.stopped_by:
            self.save_checkpoint()
        if self.stopped_by is not None:
            self.trainer.should_stop = True

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A `Batch` moves itself."""
        return batch.to(device)

    # -- our own ----------------------------------------------------------------------------------------------

    @property
    def evaluate_every(self) -> int:
        """Steps between looks at the validation split."""
        return self.recipe.training.evaluate_every or self.steps_per_epoch

    def close(self) -> None:
        """Give back signals and files, however training ended."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if hasattr(self, "journal"):
            self.journal.close()
            draw_curves(self.run)
        self.reporter.close()

    def save_checkpoint(self) -> None:
        """Everything that decides the future, whole or not at all."""
        state = {
            "step": self.done,
            "steps": self.steps,
            "made_with": made_with(self.device),
            "samples": self.samples,
            "splits": dict(self.model.trained.splits) if self.model.trained else {},
            "begun_with": list(self.model.trained.begun_with) if self.model.trained else [],
            "spec": self.model.spec.model_dump(mode="json"),
            "model": dict(self.model.state_dict()),
            "optimiser": self._optimiser().state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "rng": rng.collect(),
            "history": self.history.to_state(),
            "losses": list(self.losses),
        }
        write_checkpoint(self.run / "checkpoints", self.done, state)

    def _optimiser(self) -> torch.optim.Optimizer:
        optimiser = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimiser, torch.optim.Optimizer), "there is one optimiser"
        return optimiser

    def _log(self) -> None:
        speed = self.seen / max(time.monotonic() - self.started, 1e-9)
        self.reporter.advance(
            "training",
            self.done,
            self.steps,
            lambda: f"loss {self.losses[-1]:.4f}  {self.history.describe()}  {speed:.0f} samples/s",
        )
        if self.done % self.recipe.training.log_every == 0 or self.done == self.steps:
            mean = sum(self.losses) / len(self.losses)
            rate = self._optimiser().param_groups[0]["lr"]
            self.journal.write(
                self.done,
                "train",
                {
                    "loss": mean,
                    "last_loss": self.losses[-1],
                    "lr": rate,
                    "gradient_norm": self.norm,
                    "samples_per_second": speed,
                },
            )
            self.losses.clear()

    def _look(self) -> None:
        """Score the validation split, keep the best model, count towards early stopping."""
        with nullcontext() if self.ema is None else self.ema.swapped(self.model):
            if self.validation is None:
                self.save_best(self.model, None, self.done)
            else:
                self._judge(self.validation)

    def _judge(self, validation: Split) -> None:
        scores = score(self.model, validation, self.recipe.evaluation.batch_size)
        flat = {f"{output}.{name}": value for output, group in scores.values.items() for name, value in group.items()}
        self.journal.write(self.done, "validation", {"loss": scores.loss, **flat})
        better = self.history.add(self.done, self.model.spec, scores)
        text = f"validation: loss {scores.loss:.4f}  {shown(flat)}{'  best' if better else ''}"
        self.reporter.note(f"step {self.done}/{self.steps}  {text}")
        if better:
            self.save_best(self.model, scores, self.done)
        patience = self.recipe.training.patience
        if patience is not None and self.history.waited >= patience:
            self.stopped_by = f"no better score in {patience} looks at the validation split"

    def _stop_by_signal(self, number: int, frame: Any) -> None:
        if self.stopped_by is not None:
            raise KeyboardInterrupt
        self.stopped_by = signal.Signals(number).name
        self.reporter.note(f"{self.stopped_by}: finishing this step and saving; once more to stop at once.")

    def _not_finite(self, what: str, step: int | None = None) -> TrainingError:
        last = max((self.run / "checkpoints").glob("checkpoint-*"), default=None)
        kept = f"The last good checkpoint is {last}." if last else "No checkpoint had been written yet."
        return TrainingError(
            f"step {self.done + 1 if step is None else step}: {what}; training stops before it is saved. {kept} "
            "Try a smaller training.lr, a longer warm-up, or look for extreme values in the data."
        )


def _own_handlers() -> dict[int, Any]:
    """The handlers of Ctrl-C and SIGTERM before training takes them; none where it cannot (in another thread)."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return {number: handler for number, handler in found.items() if handler is not None}
