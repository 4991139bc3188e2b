"""`pointwise`: numbers of each point of a cloud or of each row of a set, asked for by themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import perceivers
from perceivers.data.files import read_table
from perceivers.data.loader import collate
from perceivers.data.reader import Reader
from perceivers.data.table import Table
from perceivers.errors import DataError, SpecError
from perceivers.inputs.augment_points import PointsAugmentation
from perceivers.inputs.points import PointsInput
from perceivers.models.plan import plan
from perceivers.outputs.pointwise import PointwiseOutput

UNITS = {
    "kind": "points",
    "count": 6,
    "axes": 0,
    "channels": 3,
    "position": {"kind": "none"},
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
}
VALUES = {"kind": "pointwise", "input": "units", "channels": 2, "mean": [10, -3], "std": [2, 0.5]}
MAP = {"kind": "points", "count": 2}
ROWS = np.random.default_rng(0).normal(size=(4, 3))


def spec(units=None, levels=None):
    return {
        "inputs": {"units": {**UNITS, **(units or {})}},
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"levels": {**VALUES, **(levels or {})}},
    }


def model(**changes):
    return perceivers.build(spec(**changes), seed=0).eval()


class TestAnswers:
    @pytest.mark.parametrize("project", [None, 8])
    def test_each_point_asks_with_itself(self, project):
        made = model(levels={"project": project}).double()
        batch = made.collate([{"units": ROWS}, {"units": ROWS[:2]}])
        head = made.outputs["levels"]
        elements = made.inputs["units"](batch.inputs["units"]).joined()
        queries = elements if head.project is None else head.project(elements)
        assert queries.shape == (2, 6, project or 3)
        wanted = head.head(made.decoder(queries, made.encode(batch), mask=batch.inputs["units"].mask))
        found = made(batch)["levels"]
        assert found.shape == (2, 6, 2)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(made.decode(made.encode(batch), batch=batch)["levels"], found)

    def test_empty_slots_change_nothing(self):
        wide, narrow = model(units={"count": 50}), model()
        wide.load_state_dict(narrow.state_dict())
        (few,), (many,) = narrow([{"units": ROWS}]).values(), wide([{"units": ROWS}]).values()
        torch.testing.assert_close(many[:, :4], few[:, :4])

    def test_order_is_kept(self):
        made = model().double()
        (there,), (back,) = made([{"units": ROWS}]).values(), made([{"units": ROWS[::-1].copy()}]).values()
        torch.testing.assert_close(back[:, :4].flip(1), there[:, :4])

    def test_rows_in_their_own_units(self):
        made = model()
        holed = ROWS.copy()
        holed[1, 2] = np.nan
        predictor = perceivers.Predictor(made)
        whole, lacking = predictor({"units": ROWS}), predictor({"units": holed})
        numbers = made([{"units": ROWS}])["levels"][0, :4].double() * torch.tensor([2, 0.5]) + torch.tensor([10, -3])
        np.testing.assert_allclose(whole["levels"], numbers.detach(), rtol=1e-6)
        assert lacking["levels"][1] == [None, None]
        holed[3] = np.inf
        ended = predictor({"units": holed})
        assert [row == [None, None] for row in ended["levels"]] == [False, True, False, True], "a row for each point"
        json.dumps([whole, lacking], allow_nan=False)

    def test_a_cloud_with_coordinates(self):
        made = model(units={"axes": 2, "channels": 1, "mean": [0], "std": [1], "position": {"kind": "fourier"}})
        found = made([{"units": ROWS}])["levels"]
        assert found.shape == (1, 6, 2)
        assert not torch.equal(found[:, 0], found[:, 1])

    def test_what_a_masked_point_holds_changes_nothing(self):
        made = model().double()
        batch = made.collate([{"units": ROWS}])
        elements = batch.inputs["units"]
        mask = elements.present.clone()
        mask[0, 1] = False
        found = []
        for held in (0.0, 1e30, float("nan"), float("inf")):
            values = elements.values.clone()
            values[0, 1] = held
            changed = replace(elements, values=values, mask=mask)
            found.append(made(replace(batch, inputs={"units": changed}))["levels"])
        without = made([{"units": np.delete(ROWS, 1, axis=0)}])["levels"][:, :3]
        for answer in found:
            assert torch.equal(answer, found[0])
            torch.testing.assert_close(answer[:, [0, 2, 3]], without, rtol=1e-12, atol=1e-12)

    def test_large_numbers_are_answered_alike_after_loading(self, tmp_path):
        made = model(levels={"channels": 1, "mean": [1_700_000_060.0], "std": [1.0]})
        again = perceivers.load(made.save(tmp_path / "model"))
        given = {"units": ROWS}
        assert perceivers.Predictor(again)(given) == perceivers.Predictor(made)(given)

    def test_an_absent_input(self):
        made = model()
        both = made([{"units": ROWS}, {}])["levels"]
        assert both.isfinite().all()
        torch.testing.assert_close(both[:1], made([{"units": ROWS}])["levels"])

    def test_every_parameter_learns(self):
        made = model(levels={"project": 8}).train()
        made([{"units": ROWS}])["levels"][:, :4].square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.parameters())


class TestTargets:
    KIND = PointwiseOutput(input="units", channels=2)

    @pytest.mark.parametrize("form", ["array", "list", "json", "npy"])
    def test_all_ways_to_give_them(self, form, tmp_path):
        rows = [[1.0, None], [2.5, -3.0]]
        array = np.array(rows, float)
        np.save(tmp_path / "x.npy", array)
        value = {"array": array, "list": rows, "json": json.dumps(rows), "npy": tmp_path / "x.npy"}[form]
        np.testing.assert_array_equal(self.KIND.parse(value), array)

    def test_one_channel_is_a_number_a_point(self):
        one = PointwiseOutput(input="units")
        assert one.parse([1, 2, None]).shape == (3, 1)
        assert one.parse("[]").shape == (0, 1)
        assert one.parse(None) is None

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ([[1, 2, 3]], r"the shape \(1, 3\); wanted \(points, 2\)"),
            ([[1, 2], [3]], "not a rectangle of numbers.*: row 2 has 1, the first 2"),
            ([[1, None], ["a", 2]], "not a rectangle of numbers.*: row 2: 'a' is not a number"),
            ("[[1, 2", "not valid JSON"),
            ([[np.inf, 1]], "infinite"),
            ("gone.npy", "does not exist"),
        ],
    )
    def test_what_is_none(self, value, said):
        with pytest.raises(DataError, match=said):
            self.KIND.parse(value)

    def test_statistics_are_of_the_known_numbers(self):
        targets = [np.array([[1.0, 5.0], [3.0, np.nan]]), None, np.array([[5.0, 7.0]]), np.array([[np.nan, np.nan]])]
        fitted = self.KIND.fit(targets)
        assert fitted.mean == pytest.approx((3.0, 6.0))
        assert fitted.std == pytest.approx((np.std([1, 3, 5]), 1.0))
        apart = self.KIND.fit([np.array([[1.0, np.nan], [3.0, np.nan]]), np.array([[np.nan, 4.0], [np.nan, 8.0]])])
        assert (apart.mean, apart.std) == ((2.0, 6.0), (1.0, 2.0))
        for targets in ([None], [np.zeros((0, 2))], [np.array([[1.0, np.nan], [2.0, np.nan]])]):
            with pytest.raises(DataError, match=r"channel (1, )?2 has no number"):
                self.KIND.fit(targets)
        with pytest.raises(DataError, match="nothing to learn"):
            self.KIND.fit([np.ones((3, 2))])

    def test_a_large_offset_keeps_its_spread(self):
        kind = PointwiseOutput(input="units")
        fitted = kind.fit([np.array([[1.7e9], [1.7e9 + 1]]), np.array([[1.7e9 + 2]])])
        assert fitted.std == pytest.approx((np.std([0, 1, 2]),), rel=1e-6)

    def test_loss_and_scores_by_hand(self):
        made = model()
        head = made.output_module("levels")
        kind = made.spec.outputs["levels"]
        target = kind.collate([np.array([[12.0, -3.0], [np.nan, -2.0]]), None])
        assert target.shape == (2, 2, 2)
        prediction = torch.zeros(2, 6, 2)
        losses, known = head.loss(prediction, target)
        assert known.tolist() == [True, False]
        # Standardised targets: 1, 0 and 2.
        assert losses.tolist() == pytest.approx([5 / 3, 0])
        metrics = head.metrics()
        head.measure(metrics, prediction, target)
        scores = head.scores(metrics)
        # Squares of 1, 0 and 2 about zero, and about their mean: 5 and 2.
        assert scores == pytest.approx({"standardised_mae": 1.0, "mae": 1.0, "rmse": (5 / 3) ** 0.5, "r2": 1 - 5 / 2})


class TestTables:
    def table(self, units, levels):
        return Table({"units": units, "levels": levels}, "t")

    def reader(self, **settings):
        return Reader(
            {"units": PointsInput(**{**UNITS, **settings})}, {"levels": PointwiseOutput(input="units", channels=2)}
        )

    def test_a_row_for_each_point(self):
        bad = self.table([ROWS, ROWS], [np.zeros((4, 2)), np.zeros((5, 2))])
        reader = self.reader()
        assert reader.row(bad, 0).targets["levels"].shape == (4, 2)
        assert reader.errors(bad, 0) == []
        (error,) = reader.errors(bad, 1)
        assert "row 2" in str(error)
        assert "column 'levels'" in str(error)
        assert "has 5 rows, but 'units' has 4 points" in str(error)

    @pytest.mark.parametrize("overflow", ["truncate", "spread"])
    def test_a_cloud_that_is_cut(self, overflow):
        rows = np.arange(30.0).reshape(10, 3)
        table = self.table([rows, rows], [rows[:, :2] * 10, np.zeros((8, 2))])
        reader = self.reader(overflow=overflow)
        row = reader.row(table, 0)
        batch = collate([row], reader.inputs, reader.outputs)
        np.testing.assert_array_equal(batch.targets["levels"][0], row.inputs["units"].values[:, :2] * 10)
        (error,) = reader.errors(table, 1)
        assert "has 8 rows, but 'units' has 10 points" in str(error)

    def test_an_absent_cloud_is_asked_nothing(self):
        reader = self.reader()
        table = self.table([None, ROWS], [np.zeros((9, 2)), np.ones((4, 2))])
        assert reader.errors(table, 0) == []
        for inputs in (reader.inputs, {}):
            batch = collate([reader.row(table, 0), reader.row(table, 1)], inputs, reader.outputs)
            assert batch.targets["levels"][0].isnan().all()
        assert batch.targets["levels"].shape == (2, 4, 2)

    def test_masked_points_have_no_target(self):
        holed = ROWS.copy()
        holed[2, 1] = np.nan
        reader = self.reader()
        row = reader.row(self.table([holed], [np.ones((4, 2))]), 0)
        target = collate([row], reader.inputs, reader.outputs).targets["levels"]
        assert target.isfinite().all(-1).tolist() == [[True, True, False, True]]

    def test_a_table_without_the_points_scores_nothing(self, tmp_path):
        """Its targets may have more rows than the model has places."""
        made = perceivers.build(
            {**spec(units={"overflow": "truncate"}), "inputs": {**spec()["inputs"], "map": MAP}}, seed=0
        ).eval()
        path = tmp_path / "t.jsonl"
        path.write_text(json.dumps({"map": [[1.0, 2.0, 3.0]], "levels": [[1, 2]] * 9}) + "\n")
        reader = Reader(made.spec.inputs, made.spec.outputs).present(read_table(path))
        assert list(reader.inputs) == ["map"]
        batch = collate([reader.row(read_table(path), 0)], reader.inputs, reader.outputs)
        losses, known = made.output_module("levels").loss(made(batch)["levels"], batch.targets["levels"])
        assert (losses.tolist(), known.tolist()) == ([0.0], [False])

    def test_more_targets_than_places(self):
        made = model()
        target = made.spec.outputs["levels"].collate([np.zeros((7, 2))])
        with pytest.raises(DataError, match="the targets have 7 rows, but the model reads 6 points"):
            made.output_module("levels").loss(made([{"units": ROWS}])["levels"], target)


class TestSets:
    KIND = PointsInput(**UNITS)

    def test_rows_by_name(self):
        np.testing.assert_array_equal(self.KIND.parse({"values": ROWS}).values, self.KIND.parse(ROWS).values)
        with pytest.raises(DataError, match="has 'values', and no coordinates; got coords"):
            self.KIND.parse({"coords": ROWS})


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"levels": {"input": "unit"}}, "did you mean 'units'"),
            ({"levels": {"mean": [1]}}, "mean has 1 numbers for 2 channels"),
            ({"levels": {"mean": None}}, "mean and std are not known yet"),
            ({"units": {"position": {"kind": "fourier"}}}, "points with no axes lie nowhere"),
            ({"units": {"channels": 0, "mean": None, "std": None}}, "all the same"),
            ({"units": {"channels": 0, "axes": 2, "position": {"kind": "fourier"}, "project": 4}}, "channels is 0"),
            ({"units": {"bounds": [[0, 1]]}}, "so they have no bounds"),
            ({"units": {"bounds": []}}, "so they have no bounds"),
        ],
    )
    def test_what_does_not_fit(self, changes, said):
        with pytest.raises(SpecError) as caught:
            model(**changes)
        assert said.lower() in str(caught.value).lower()

    def test_it_asks_points_only(self):
        given = spec()
        given["inputs"]["units"] = {"kind": "number", "columns": ["a"], "mean": [0], "std": [1]}
        with pytest.raises(SpecError, match="input 'units' is of another kind than points"):
            perceivers.build(given)

    def test_scaling_wants_coordinates(self):
        with pytest.raises(SpecError, match="axes is 0"):
            PointsInput(**UNITS).augmenter(PointsAugmentation(scaling=(0.9, 1.1)))

    def test_a_plan(self):
        made = plan(spec(levels={"project": 8}))
        parts = {part.name: part.flops for part in made.parts}
        assert parts["output levels"] == 2 * 6 * (3 * 8 + 8 * 2)


def test_it_is_trained_from_a_table(tmp_path):
    """How far each unit is in front of the middle of its group: no unit knows that alone."""
    random = np.random.default_rng(0)
    table = []
    for row in range(240):
        units = random.normal(size=(int(random.integers(3, 9)), 2)) + random.normal(size=2) * 3
        apart = units[:, 0] - units[:, 0].mean()
        split = ("train", "validation", "test")[(row >= 200) + (row >= 220)]
        table.append({"units": units.tolist(), "apart": apart.tolist(), "split": split})
    path = tmp_path / "groups.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    recipe = {
        "model": {
            "inputs": {
                "units": {
                    "kind": "points",
                    "count": 8,
                    "axes": 0,
                    "channels": 2,
                    "position": {"kind": "none"},
                    "project": 32,
                }
            },
            "latents": {"count": 8, "channels": 32},
            "encoder": {"layers": 2, "self_attend": {"heads": 4}},
            "outputs": {"apart": {"kind": "pointwise", "input": "units"}},
        },
        "data": {"source": str(path), "splits": {"kind": "column", "column": "split"}},
        "training": {"steps": 250, "batch_size": 32, "lr": 3e-3, "threads": 1},
    }
    run = perceivers.train(recipe, out=tmp_path / "run", quiet=True)
    scores = perceivers.evaluate(run.run, quiet=True)["scores"]["apart"]
    assert scores["standardised_mae"] < 0.3, "answering the mean has about 0.8"
    (answer,) = perceivers.predict(run.run, [{"units": [[0.0, 0.0], [2.0, 0.0]]}])
    assert len(answer["apart"]) == 2
