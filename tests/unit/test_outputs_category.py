"""`category` as an output: classes, loss, metrics, answers."""

import math

import pytest
import torch

from perceivers.errors import DataError, SpecError
from perceivers.outputs import KINDS, AnyOutput
from perceivers.outputs.base import Context, Sizes
from perceivers.outputs.category import UNKNOWN, CategoryOutput

FITTED = CategoryOutput(classes=("cat", "cow", "dog"))
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0], [1.0, 1.5, -2.0]])


def head(settings=FITTED, averaging=False):
    return settings.build(Sizes(4, 5, averaging, {}))


def test_kinds_and_the_union_name_the_same_classes_by_their_kind():
    assert set(KINDS.values()) == set(AnyOutput.__origin__.__args__)
    assert {name: name for name in KINDS} == {name: kind.model_fields["kind"].default for name, kind in KINDS.items()}


def test_classes_are_learned_numbers_before_words():
    targets = [CategoryOutput().parse(cell) for cell in ("b", 10, 9.0, None, "a", "9", "")]
    assert CategoryOutput().fit(targets).classes == ("9", "10", "a", "b")
    assert FITTED.fit(["x", "y"]) is FITTED


def test_targets_are_indices_and_empty_is_unknown():
    assert [FITTED.parse(cell) for cell in ("cow", " dog", None, "")] == [1, 2, UNKNOWN, UNKNOWN]
    assert FITTED.collate([1, UNKNOWN]).tolist() == [1, -1]
    assert FITTED.collate([1]).dtype == torch.int64
    assert FITTED.table_columns("label") == ["label"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_by_formula(smoothing):
    """−Σ ((1−s)·y + s/K)·log p; smoothing in training only."""
    module = head(FITTED.with_changes(label_smoothing=smoothing))
    target = torch.tensor([0, 2, UNKNOWN])
    for s in (smoothing, 0.0):
        losses, known = module.loss(LOGITS, target)
        assert known.tolist() == [True, True, False]
        for row in range(2):
            log_p = LOGITS[row] - math.log(sum(math.exp(x) for x in LOGITS[row].tolist()))
            weights = torch.full((3,), s / 3)
            weights[target[row]] += 1 - s
            torch.testing.assert_close(losses[row], -(weights * log_p).sum())
        module.eval()


def test_targets_may_be_shares_of_classes():
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5]])
    losses, known = head().loss(LOGITS, shares)
    assert known.all()
    torch.testing.assert_close(losses, -(shares * LOGITS.log_softmax(-1)).sum(-1))


def test_the_loss_is_in_float32_and_unknown_examples_get_no_gradient():
    logits = LOGITS.bfloat16().requires_grad_()
    losses, known = head().loss(logits, torch.tensor([0, UNKNOWN, 1]))
    assert losses.dtype == torch.float32
    losses[known].sum().backward()
    assert not logits.grad[1].any()


def test_metrics_leave_out_the_unknown():
    module = head()
    metrics = module.metrics()
    assert set(metrics) == {"accuracy", "f1", "confusion"}
    module.measure(metrics, LOGITS, torch.tensor([0, 0, UNKNOWN]))
    module.measure(metrics, LOGITS, torch.full((3,), UNKNOWN))
    assert metrics["accuracy"].compute().item() == 0.5
    assert metrics["confusion"].compute().tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    many = head(CategoryOutput(classes=tuple("abcdef")))
    assert "top5" in many.metrics()
    assert FITTED.headline == ("accuracy", "max")


def test_answers_are_plain_values_that_sum_to_one():
    rows = head().answer("label", LOGITS, {})
    assert [row["label"] for row in rows] == ["cat", "dog", "cow"]
    for row, logits in zip(rows, LOGITS, strict=True):
        assert list(row) == ["label", "label_probability", "label_probabilities"]
        assert list(row["label_probabilities"]) == list(FITTED.classes)
        assert sum(row["label_probabilities"].values()) == pytest.approx(1)
        assert row["label_probability"] == max(row["label_probabilities"].values())
        assert list(row["label_probabilities"].values()) == pytest.approx(logits.softmax(-1).tolist())


def test_one_learned_query_and_a_linear_head():
    module = head()
    context = Context(2, {}, {}, None, LOGITS)
    assert module.queries(context).shape == (2, 1, 4)
    answers = torch.randn(2, 1, 5)
    torch.testing.assert_close(
        module.predict(answers, context), answers[:, 0] @ module.head.weight.T + module.head.bias
    )
    averaging = head(averaging=True)
    assert averaging.query is None
    assert not averaging.head.weight.any(), "the 2021 read-out starts at zero"


def test_faults():
    with pytest.raises(DataError, match=r"class 'dgo' is not one .* Did you mean 'dog'\? Classes: cat, cow, dog"):
        FITTED.parse("dgo")
    with pytest.raises(DataError, match="only the class 'x' in the training split"):
        CategoryOutput().fit(["x", "x", ""])
    with pytest.raises(DataError, match="no class at all"):
        CategoryOutput().fit(["", ""])
    with pytest.raises(SpecError, match="classes are not known yet"):
        head(CategoryOutput())


def test_numbers_that_are_no_classes():
    """Many classes, all of them numbers: near misses would say nothing."""
    numbers = CategoryOutput().fit([f"{i / 7:.3f}" for i in range(300)])
    with pytest.raises(DataError) as caught:
        numbers.parse("3.5")
    assert str(caught.value) == (
        "'3.5' is not one of the 300 classes of the training split, which are all numbers: "
        "the target looks like a number. Set kind: number on the output."
    )
    with pytest.raises(DataError, match="Did you mean"):
        CategoryOutput().fit([str(i) for i in range(20)]).parse("33")
    with pytest.raises(DataError, match="class 'dog' is not one"):
        numbers.parse("dog")
