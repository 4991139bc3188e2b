"""`number` as an output: standardised losses, answers in the columns' own units; and the masked mean."""

import math

import pytest
import torch

from perceivers.errors import DataError, SpecError
from perceivers.outputs import masked_mean
from perceivers.outputs.base import Sizes
from perceivers.outputs.number import NumberOutput

SIZES = Sizes(4, 4, False, {})
TWO = NumberOutput(columns=("x", "y"), mean=(10.0, 0.0), std=(2.0, 0.5))
PREDICTION = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.0, 0.0]])
NAN = math.nan


def test_targets_by_name_or_in_order():
    assert TWO.parse({"y": 2, "x": "1"}) == (1.0, 2.0)
    assert TWO.parse([1, 2]) == (1.0, 2.0)
    assert math.isnan(TWO.parse({"y": 2})[0])
    assert NumberOutput().parse("3.5") == (3.5,)
    assert NumberOutput().parse({"age": 4}) == (4.0,)
    assert math.isnan(NumberOutput().parse(None)[0])
    assert TWO.table_columns("z") == ["x", "y"]
    assert NumberOutput().table_columns("z") == ["z"]


def test_statistics_of_the_known_targets():
    settings = NumberOutput(columns=("x", "y"))
    fitted = settings.fit([(1.0, 5.0), (3.0, NAN), (NAN, 9.0)])
    assert fitted.mean == (2.0, 7.0)
    assert fitted.std == (1.0, 2.0)
    constant = settings.fit([(0.1, 1.0)] * 6 + [(0.1, 2.0)])
    assert constant.std[0] == 1.0, "one constant column beside another that is not"
    assert settings.with_changes(mean=(0.0, 0.0)).fit([(1.0, 5.0), (3.0, 6.0)]).mean == (0.0, 0.0)
    assert TWO.fit([]) is TWO


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        ("l2", lambda d: d * d),
        ("l1", abs),
        ("huber", lambda d: d * d / 2 if abs(d) < 1 else abs(d) - 0.5),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_on_the_standardised_scale_over_the_known_columns(loss, formula, dtype):
    module = TWO.with_changes(loss=loss).build(SIZES).to(dtype)
    target = torch.tensor([[11.0, 0.0], [NAN, 1.0], [NAN, NAN]])
    prediction = PREDICTION.to(dtype, copy=True).requires_grad_()
    losses, known = module.loss(prediction, target)
    assert known.tolist() == [True, True, False]
    wanted = [(formula(1.0 - 0.5) + formula(-2.0)) / 2, formula(3.0 - 2.0), 0.0]
    assert losses.tolist() == pytest.approx(wanted)
    losses.sum().backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad[1, 0] == 0
    assert not prediction.grad[2].any()


def scores(module, prediction, target):
    metrics = module.metrics()
    module.measure(metrics, prediction, target)
    return module.scores({name: metric for name, metric in metrics.items() if metric.update_called})


def test_metrics_of_each_column_in_its_unit():
    module = TWO.build(SIZES)
    metrics = module.metrics()
    target = torch.tensor([[11.0, 0.0], [NAN, 1.0], [NAN, NAN]])
    module.measure(metrics, PREDICTION, target)
    module.measure(metrics, PREDICTION, torch.full((3, 2), NAN))
    assert metrics["mae_x"].compute().item() == pytest.approx(12.0 - 11.0)
    assert metrics["mae_y"].compute().item() == pytest.approx((1.0 + 0.5) / 2)
    assert metrics["rmse_y"].compute().item() == pytest.approx(math.sqrt((1.0 + 0.25) / 2))
    assert metrics["standardised_mae"].compute().item() == pytest.approx((1.0 / 2 + 1.0 / 0.5 + 0.5 / 0.5) / 3)
    found = module.scores(metrics)
    assert set(found) == set(metrics) | {"r2"}
    assert math.isnan(found["r2"]), "one target of x tells no R²"
    assert TWO.headline == ("standardised_mae", "min")
    assert NumberOutput().headline == NumberOutput(columns=("x",)).headline == ("mae", "min")


def test_always_answering_the_mean_explains_nothing():
    """Age and income: their pooled R² would be 0.7, only because the two columns differ from each other."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(50, 2, generator=random, dtype=torch.float64)
    target = torch.tensor([40.0, 50_000.0]) + noise * torch.tensor([15.0, 20_000.0])
    settings = NumberOutput(columns=("age", "income")).fit(map(tuple, target.tolist()))
    found = scores(settings.build(SIZES), torch.zeros(50, 2), target)
    assert [found[name] for name in ("r2_age", "r2_income", "r2")] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    assert 10 < found["mae_age"] < 15
    assert found["mae_income"] > 10_000
    assert 0.6 < found["standardised_mae"] < 1


def test_the_headline_minds_every_column():
    settings = NumberOutput(columns=("age", "income"), mean=(40.0, 50_000.0), std=(15.0, 20_000.0))
    module, target = settings.build(SIZES), torch.tensor([[25.0, 50_000.0], [55.0, 50_001.0]])
    good = scores(module, torch.tensor([[-1.0, 0.1], [1.0, -0.1]]), target)
    poor = scores(module, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), target)
    assert good["standardised_mae"] < poor["standardised_mae"]


def test_a_column_without_targets_is_not_scored():
    found = scores(TWO.build(SIZES), PREDICTION, torch.tensor([[11.0, NAN], [12.0, NAN], [NAN, NAN]]))
    assert set(found) == {"standardised_mae", "mae_x", "rmse_x", "r2_x", "r2"}
    assert found["r2"] == found["r2_x"]


def test_answers_in_the_columns_units():
    rows = TWO.build(SIZES).answer("place", PREDICTION, {})
    assert rows[0] == {"place_x": 12.0, "place_y": -1.0}
    one = NumberOutput(mean=(10.0,), std=(2.0,)).build(SIZES)
    assert one.answer("age", torch.tensor([[1.5]]), {}) == [{"age": 13.0}]
    named = NumberOutput(columns=("years",), mean=(10.0,), std=(2.0,)).build(SIZES)
    assert named.answer("age", torch.tensor([[1.5]]), {}) == [{"age": 13.0}]


def test_times_in_seconds_keep_their_differences():
    """float32 knows 1.7e9 to two minutes only; the whole way from cell to score is in float64."""
    targets = [(1.7e9,), (1.7e9 + 1,), (1.7e9 + 2,), (NAN,)]
    settings = NumberOutput().fit(targets)
    assert settings.mean == (1.7e9 + 1,)
    assert settings.std == pytest.approx((math.sqrt(2 / 3),), rel=1e-12)
    module = settings.build(SIZES)
    wanted = settings.collate(targets)
    prediction = torch.tensor([[-1.0], [0.0], [0.0], [0.0]])
    losses, known = module.loss(prediction, wanted)
    assert known.tolist() == [True, True, True, False]
    assert losses.tolist()[1:3] == pytest.approx([0.0, 1.5])
    assert module.answer("time", prediction, {})[0]["time"] == pytest.approx(1.7e9 + 1 - math.sqrt(2 / 3), abs=1e-6)
    metrics = module.metrics()
    module.measure(metrics, prediction, wanted)
    assert metrics["mae"].compute().item() == pytest.approx((1 - math.sqrt(2 / 3) + 0 + 1) / 3, abs=1e-6)
    assert metrics["r2"].compute().item() == pytest.approx(1 - ((1 - math.sqrt(2 / 3)) ** 2 + 1) / 2, abs=1e-6)


def test_faults():
    with pytest.raises(DataError, match="'old' is not a number"):
        NumberOutput().parse("old")
    with pytest.raises(DataError, match="the target is infinite; leave the cell empty"):
        NumberOutput().parse("inf")
    with pytest.raises(DataError, match=r"got 1 values for 2 columns \(x, y\)"):
        TWO.parse([1])
    with pytest.raises(DataError, match="no column 'z'"):
        TWO.parse({"x": 1, "z": 2})
    with pytest.raises(DataError, match="a target column has no number in the training split"):
        NumberOutput().fit([(NAN,), (NAN,)])
    with pytest.raises(DataError, match=r"the same number .* in every training row; there is nothing to learn"):
        NumberOutput().fit([(0.1,)] * 7)
    with pytest.raises(SpecError, match="mean and std are not known yet"):
        NumberOutput().build(SIZES)
    with pytest.raises(SpecError, match="std has 1 numbers for 2 columns"):
        NumberOutput(columns=("x", "y"), mean=(1.0, 1.0), std=(1.0,)).build(SIZES)


def test_masked_mean():
    losses, known = torch.tensor([1.0, NAN, 5.0], requires_grad=True), torch.tensor([True, False, True])
    mean = masked_mean(losses, known)
    assert mean.item() == 3.0
    mean.backward()
    assert losses.grad.tolist() == [0.5, 0.0, 0.5]
    nothing = masked_mean(losses, torch.zeros(3, dtype=torch.bool))
    assert nothing.item() == 0.0
    losses.grad = None
    nothing.backward()
    assert losses.grad.tolist() == [0.0] * 3
