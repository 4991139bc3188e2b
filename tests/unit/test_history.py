import math

import pytest

from perceivers.models.spec import as_spec
from perceivers.training.history import History
from perceivers.training.scoring import Scores

INPUTS = {"facts": {"kind": "number", "columns": ["x"], "mean": [0], "std": [1]}}
CATEGORY = {"kind": "category", "classes": ["a", "b"]}
NUMBER = {"kind": "number", "mean": [0], "std": [1]}


def spec(**outputs):
    return as_spec({"inputs": INPUTS, "outputs": outputs})


def add(history: History, step: int, of, loss: float = 1.0, **values: float) -> bool:
    return history.add(step, of, Scores(loss, {"out": values}))


def test_accuracy_decides_for_one_category():
    history = History()
    one = spec(out=CATEGORY)
    assert history.describe() == ""
    # The loss says otherwise each time.
    assert add(history, 1, one, loss=1.0, accuracy=0.5)
    assert add(history, 2, one, loss=2.0, accuracy=0.6)
    assert not add(history, 3, one, loss=0.1, accuracy=0.6), "as good is not better"
    assert not add(history, 4, one, loss=0.1, accuracy=0.55)
    assert (history.metric, history.best, history.best_step, history.waited) == ("accuracy", 0.6, 2, 2)
    assert history.describe() == "best accuracy 0.6000"
    assert add(history, 5, one, accuracy=0.7)
    assert history.waited == 0


def test_the_error_decides_for_one_number():
    history = History()
    one = spec(out=NUMBER)
    assert add(history, 1, one, loss=1.0, mae=3.0, r2=0.9)
    assert add(history, 2, one, loss=2.0, mae=2.0, r2=0.1)
    assert not add(history, 3, one, loss=0.0, mae=2.5, r2=0.99)
    assert history.metric == "mae"


def test_the_weighted_loss_decides_for_several():
    history = History()
    two = spec(out=CATEGORY, other=NUMBER)
    assert add(history, 1, two, loss=1.0, accuracy=0.9)
    assert add(history, 2, two, loss=0.5, accuracy=0.1)
    assert not add(history, 3, two, loss=0.6, accuracy=1.0)
    assert (history.metric, history.best) == ("loss", 0.5)


@pytest.mark.parametrize("first", [True, False])
def test_what_is_no_number_is_never_the_best(first):
    history = History()
    one = spec(out=NUMBER)
    assert first or add(history, 1, one, mae=2.0)
    assert not add(history, 2, one, mae=math.nan)
    assert history.waited == 1
    assert add(history, 3, one, mae=1.0)


def test_there_and_back():
    history = History()
    one = spec(out=CATEGORY)
    add(history, 1, one, accuracy=1 / 3)
    add(history, 2, one, accuracy=0.1)
    again = History.from_state(history.to_state())
    assert again == history
    assert not add(again, 3, one, accuracy=0.3)
    assert again.waited == 2
