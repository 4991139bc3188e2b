"""`labels` as an output: cells, classes, loss, metrics of each class, answers."""

import importlib
import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import MultilabelAveragePrecision

import perceivers
from perceivers.errors import DataError, SpecError
from perceivers.outputs.base import Sizes
from perceivers.outputs.labels import LabelsOutput

NUMBER = {"x": {"kind": "number", "columns": ["x"], "mean": [0], "std": [1]}}
FITTED = LabelsOutput(classes=("dog", "rain", "speech"))
NONE = torch.full((3,), float("nan"))


def head(settings=FITTED, averaging=False):
    return settings.build(Sizes(4, 5, averaging, {}))


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        (["rain", "dog", "rain"], ("rain", "dog")),
        (("dog",), ("dog",)),
        (np.array(["dog", "rain"]), ("dog", "rain")),
        ('["dog", "Speech; male"]', ("dog", "Speech; male")),
        ("dog|rain; heavy", ("dog", "rain; heavy")),
        ("dog; rain", ("dog", "rain")),
        ("dog", ("dog",)),
        (" dog | ", ("dog",)),
        ([3.0, True], ("3", "true")),
        (7, ("7",)),
        ([], ()),
        ("[]", ()),
        ("", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_what_a_cell_says(cell, names):
    assert LabelsOutput().parse(cell) == names


def test_classes_are_learned_and_become_columns():
    targets = [LabelsOutput().parse(cell) for cell in ("speech|dog", None, "[]", "rain")]
    fitted = LabelsOutput().fit(targets)
    assert fitted.classes == FITTED.classes
    assert FITTED.fit(["x"]) is FITTED
    table = fitted.collate([fitted.parse(cell) for cell in ("speech|dog", None, "[]")])
    assert table[0].tolist() == [1, 0, 1]
    assert table[1].isnan().all()
    assert table[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("dog|rian", "class 'rian' is not one that the model was made for. Did you mean 'rain'? Classes: dog, rain"),
        ("[dog", "the labels are not valid JSON"),
        ({"dog": 1}, "got a dict; wanted a list of class names"),
        ([["dog"]], "lists in a list"),
    ],
)
def test_what_no_cell_may_say(cell, said):
    with pytest.raises(DataError) as caught:
        FITTED.parse(cell)
    assert said in str(caught.value)


def test_nothing_to_learn_and_nothing_known():
    with pytest.raises(DataError, match="no row of the training split has a class"):
        LabelsOutput().fit([None, ()])
    with pytest.raises(SpecError, match="classes are not known yet"):
        head(LabelsOutput())
    completed, words = LabelsOutput().completed("x")
    assert completed.labels() == ("a", "b")
    assert "assumed 2" in words
    assert LabelsOutput().with_labels(["x", "y"]).classes == ("x", "y")


def test_loss_by_formula():
    """−Σ (y·log σ(x) + (1 − y)·log(1 − σ(x))) / K."""
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])
    target = torch.stack([torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3), NONE])
    losses, known = head().loss(logits, target)
    assert known.tolist() == [True, True, False]
    for row in range(2):
        terms = []
        for x, y in zip(logits[row].tolist(), target[row].tolist(), strict=True):
            p = 1 / (1 + math.exp(-x))
            terms.append(-math.log(p if y else 1 - p))
        assert float(losses[row]) == pytest.approx(sum(terms) / 3, rel=1e-5)
    assert losses.isfinite().all()


def test_mean_average_precision_is_torchmetrics_own_where_every_class_is_there():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 3, generator=generator)
    target = (torch.rand(40, 3, generator=generator) < 0.4).float()
    module = head()
    metrics = module.metrics()
    for rows in (slice(0, 15), slice(15, 40)):
        module.measure(metrics, logits[rows], target[rows])
    module.measure(metrics, logits[:3], NONE.expand(3, -1))
    theirs = MultilabelAveragePrecision(3, average="macro")
    wanted = theirs(logits.sigmoid(), target.long())
    assert module.scores(metrics)["map"] == pytest.approx(float(wanted), rel=1e-6)
    each = MultilabelAveragePrecision(3, average="none")(logits.sigmoid(), target.long())
    found = module.per_class(metrics)
    assert [found[name]["average_precision"] for name in FITTED.classes] == pytest.approx(each.tolist())
    assert found["dog"]["support"] == target[:, 0].sum()
    right = ((logits[:, 0] > 0) & (target[:, 0] == 1)).sum()
    assert found["dog"]["precision"] == pytest.approx(float(right / (logits[:, 0] > 0).sum()))
    assert found["dog"]["recall"] == pytest.approx(float(right / target[:, 0].sum()))


def test_a_class_that_no_sample_has_does_not_count():
    module = head()
    metrics = module.metrics()
    module.measure(metrics, torch.tensor([[3.0, 1, 0], [-3, 1, 0]]), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    assert module.scores(metrics)["map"] == pytest.approx((1 + 0.5) / 2)
    nothing = module.per_class(metrics)["speech"]
    assert nothing.pop("support") == 0
    assert set(nothing) == {"average_precision", "precision", "recall", "f1"}
    assert all(math.isnan(value) for value in nothing.values())
    empty = module.metrics()
    module.measure(empty, torch.zeros(1, 3), torch.zeros(1, 3))
    assert math.isnan(module.scores(empty)["map"])
    assert module.scores({}) == {}
    assert module.per_class({}) is None


def test_average_precisions_are_computed_once(monkeypatch):
    theirs = importlib.import_module("torchmetrics.functional.classification.precision_recall_curve")
    module, counted, compute = head(), [], theirs._binary_clf_curve
    monkeypatch.setattr(theirs, "_binary_clf_curve", lambda *a, **k: counted.append(1) or compute(*a, **k))
    metrics = module.metrics()
    module.measure(metrics, torch.randn(9, 3), torch.eye(3).repeat(3, 1))
    module.scores(metrics)
    module.per_class(metrics)
    assert len(counted) == 3
    module.measure(metrics, torch.randn(3, 3), torch.eye(3))
    module.scores(metrics)
    assert len(counted) == 6


def test_a_class_whose_name_has_the_marks_between_names_in_it():
    settings = LabelsOutput(classes=("a", "a;b", "c|d", "[e"))
    assert settings.parse(" a;b ") == (1,)
    assert settings.parse("c|d") == (2,)
    assert settings.parse("[e") == (3,)
    assert settings.parse("a|a;b") == (0, 1)


def test_one_class_is_not_enough():
    with pytest.raises(SpecError, match=r"classes.*at least 2"):
        perceivers.build({"inputs": NUMBER, "outputs": {"y": {"kind": "labels", "classes": ["dog"]}}})
    with pytest.raises(DataError, match=r"holds only the class 'dog'.*kind: category"):
        LabelsOutput().fit([("dog",), (), None])


def test_evaluate_writes_null_for_a_class_that_no_row_has(tmp_path):
    model = perceivers.build({"inputs": NUMBER, "outputs": {"y": {"kind": "labels", "classes": ["dog", "rain"]}}})
    model.save(tmp_path / "model")
    (tmp_path / "t.csv").write_text("x,y\n1,dog\n2,[]\n3,dog\n")
    found = perceivers.evaluate(tmp_path / "model", source=str(tmp_path / "t.csv"), quiet=True)
    assert found["classes"]["y"]["rain"] == {
        "average_precision": None,
        "precision": None,
        "recall": None,
        "f1": None,
        "support": 0,
    }
    assert found["classes"]["y"]["dog"]["support"] == 2
    assert found["scores"]["y"]["map"] == found["classes"]["y"]["dog"]["average_precision"]


def test_answers():
    (row,) = head().answer("sounds", torch.tensor([[0.1, -4.0, 2.0]]), {})
    assert row["sounds"] == ["speech", "dog"]
    assert list(row["sounds_probabilities"]) == ["dog", "rain", "speech"]
    assert row["sounds_probabilities"]["speech"] == pytest.approx(1 / (1 + math.exp(-2)))


def test_with_a_mean_of_the_latents_the_head_starts_at_zero():
    module = head(averaging=True)
    assert not module.head.weight.any()
    assert module.query is None
    assert FITTED.headline == ("map", "max")
