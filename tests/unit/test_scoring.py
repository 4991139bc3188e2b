import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import toys

from perceivers.data.prepare import Split, prepare
from perceivers.data.reader import Missing
from perceivers.elements import Batch
from perceivers.models.build import build
from perceivers.models.model import Model
from perceivers.training.recipe import as_recipe
from perceivers.training.scoring import output_of, score, total_loss

OUTPUTS = {"label": {"kind": "category", "weight": 2.0}, "score": {"kind": "number", "weight": 0.5}}


def made(folder, outputs=OUTPUTS, **table_changes) -> tuple[Model, Split]:
    """An untrained model and the validation split of toy people; `table_changes` are columns of the table."""
    rows = [{**row, **{k: v[i] for k, v in table_changes.items()}} for i, row in enumerate(toys.rows())]
    toys.write_people(folder, rows)
    recipe = as_recipe(toys.recipe(model__outputs=outputs))
    prepared = prepare(recipe.data, recipe.model.inputs, recipe.model.outputs, folder, toys.silent)
    spec = recipe.model.with_changes(inputs=prepared.inputs, outputs=prepared.outputs)
    return build(spec, seed=1), prepared.splits["validation"]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return made(tmp_path_factory.mktemp("people"))


@torch.no_grad()
def predicted(model: Model, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predicted classes, true classes, predicted numbers, true numbers: one sample at a time."""
    found = []
    for i in range(len(split)):
        row = split[i]
        kinds = model.spec.inputs
        elements = {n: kind.collate([row.inputs[n]]) for n, kind in kinds.items() if row.inputs[n] is not None}
        answers = model.eval()(Batch(elements, 1))
        number = output_of(model, "score").physical(answers["score"])
        found.append((int(answers["label"].argmax()), row.targets["label"], float(number), row.targets["score"][0]))
    return tuple(np.array(column) for column in zip(*found, strict=True))


def test_scores_are_those_of_scikit_learn(case):
    model, split = case
    classes, true_classes, numbers, true_numbers = predicted(model, split)
    scores = score(model, split, batch_size=5)
    label, number = scores.values["label"], scores.values["score"]
    assert label["accuracy"] == pytest.approx(sk.accuracy_score(true_classes, classes))
    assert label["f1"] == pytest.approx(sk.f1_score(true_classes, classes, average="macro"))
    assert scores.confusion["label"] == sk.confusion_matrix(true_classes, classes, labels=[0, 1, 2]).tolist()
    assert number["mae"] == pytest.approx(sk.mean_absolute_error(true_numbers, numbers), rel=1e-4)
    assert number["rmse"] == pytest.approx(sk.root_mean_squared_error(true_numbers, numbers), rel=1e-4)
    assert number["r2"] == pytest.approx(sk.r2_score(true_numbers, numbers), rel=1e-3)


def test_the_loss_is_the_weighted_sum(case):
    model, split = case
    both = score(model, split, 100).loss
    parts = {}
    for name, weight in (("label", 2.0), ("score", 0.5)):
        other = next(n for n in OUTPUTS if n != name)
        rows = [type(row)(row.inputs, {**row.targets, other: unknown(other)}) for row in split.rows]
        alone = Split("v", split.table, split.reader, rows, Missing(split.reader.inputs))
        parts[name] = score(model, alone, 100).loss / weight
    assert both == pytest.approx(2.0 * parts["label"] + 0.5 * parts["score"], rel=1e-6)


def unknown(output: str):
    return -1 if output == "label" else (math.nan,)


@pytest.mark.parametrize("batch_size", [1, 5, 7, 100])
def test_any_batch_size_gives_the_same(tmp_path, batch_size):
    """Also where targets are unknown, which makes batches count differently."""
    label = [row["label"] if i % 3 else "" for i, row in enumerate(toys.rows())]
    model, split = made(tmp_path, label=label)
    one, other = score(model, split, 12), score(model, split, batch_size)
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert other.confusion == one.confusion
    for name, group in one.values.items():
        assert other.values[name] == pytest.approx(group, rel=1e-4)  # torchmetrics adds in float32
    known = sum(map(sum, one.confusion["label"]))
    assert known == sum(row.targets["label"] >= 0 for row in split.rows) < len(split)


def test_without_an_input_is_with_that_input_absent(case):
    model, split = case
    rows = [type(row)({**row.inputs, "photo": None}, row.targets) for row in split.rows]
    lacking = Split("v", split.table, split.reader, rows, Missing(split.reader.inputs))
    assert score(model, split, 5, without=["photo"]) == score(model, lacking, 5)
    assert score(model, split, 5, without=["photo"]).loss != score(model, split, 5).loss


def test_an_output_whose_targets_are_all_unknown_has_no_scores(case):
    model, split = case
    rows = [type(row)(row.inputs, {**row.targets, "label": -1}) for row in split.rows]
    scores = score(model, Split("v", split.table, split.reader, rows, Missing(split.reader.inputs)), 5)
    assert scores.values["label"] == {}
    assert "label" not in scores.confusion
    rows = [type(row)(row.inputs, {"label": -1, "score": (math.nan,)}) for row in rows]
    assert math.isnan(score(model, Split("v", split.table, split.reader, rows, Missing(split.reader.inputs)), 5).loss)


def test_one_sample(case):
    """R² needs two; all else is told."""
    model, split = case
    one = Split("v", split.table.take([0]), split.reader, split.rows[:1], Missing(split.reader.inputs))
    scores = score(model, one, 5)
    assert math.isnan(scores.values["score"]["r2"])
    assert scores.values["label"]["accuracy"] in (0.0, 1.0)


def test_scores_are_of_the_model_in_use_and_its_mode_comes_back(tmp_path):
    """Neither dropout nor label smoothing is on while scoring."""
    plain, split = made(tmp_path, {"label": {"kind": "category"}})
    spec = plain.spec.model_dump()
    spec["encoder"]["dropout"], spec["outputs"]["label"]["label_smoothing"] = 0.9, 0.5
    model = build(spec, seed=1)
    assert score(model.train(), split, 5) == score(plain.train(), split, 5)
    assert model.training
    score(model.eval(), split, 5)
    assert not model.training


def test_scoring_takes_no_gradient(case):
    model, split = case
    score(model, split, 5)
    assert all(p.grad is None for p in model.parameters())


def test_progress(case):
    model, split = case
    told = []
    score(model, split, 5, advance=lambda *step: told.append(step))
    assert told == [(0, 12), (5, 12), (10, 12), (12, 12)]


class TestTotalLoss:
    def test_by_hand(self, case):
        model, _ = case
        logits, numbers = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]]), torch.tensor([[0.5], [0.0]])
        head = output_of(model, "score")
        targets = {"label": torch.tensor([0, 2]), "score": torch.stack([head.mean, head.mean + 2 * head.std])}
        model.eval()
        entropy = -(logits.log_softmax(-1)[[0, 1], [0, 2]]).mean()
        expected = 2.0 * entropy + 0.5 * (0.5**2 + 2.0**2) / 2
        assert float(total_loss(model, {"label": logits, "score": numbers}, targets)) == pytest.approx(float(expected))

    def test_unknown_targets_give_zero_and_a_gradient_of_zero(self, case):
        model, _ = case
        logits = torch.randn(2, 3, requires_grad=True)
        loss = total_loss(model, {"label": logits}, {"label": torch.tensor([-1, -1])})
        loss.backward()
        assert float(loss.detach()) == 0
        assert logits.grad.abs().sum() == 0

    def test_an_output_without_targets_in_the_batch_is_left_out(self, case):
        model, _ = case
        logits = torch.zeros(1, 3)
        loss = total_loss(model, {"label": logits, "score": torch.zeros(1, 1)}, {"label": torch.tensor([0])})
        assert float(loss) == pytest.approx(2.0 * math.log(3))
