"""What can be read and is probably not meant: misspelt keys, and values in other units."""

import json
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import toys

from perceivers.data.doubts import FEW, Range, meant, misspelt, warn_of_few
from perceivers.data.reader import Row
from perceivers.data.table import Table
from perceivers.errors import DataError
from perceivers.inputs.image import ImageInput
from perceivers.inputs.number import NumberInput
from perceivers.inputs.series import SeriesInput
from perceivers.models.weights import load
from perceivers.predictor import Predictor, predict

PHOTO = ImageInput(size=(2, 2), channels=3, mean=(100.0, 100.0, 100.0), std=(10.0, 10.0, 10.0))
WAVE = SeriesInput(rate=1, seconds=3, mean=(0.0,), std=(1.0,))
FACTS = NumberInput(columns=("age", "height"), mean=(40.0, 170.0), std=(10.0, 5.0))


@pytest.fixture
def predictor(trained) -> Predictor:
    """A new one for each test: it tells once."""
    return Predictor(trained / "run")


def heard(call: Any, *arguments: Any, **named: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*arguments, **named)
    return [str(warning.message) for warning in caught]


def test_meant():
    assert meant(["lefft", "zzz"], ["left", "right"]) == " Did you mean 'left' by 'lefft'?"
    assert meant(["age"], ["age"]) == ""


class TestKeys:
    GOOD: ClassVar = {"facts": {"age": 30, "height": 170}}

    def test_one_that_no_input_reads_is_told_once(self, predictor):
        record = {"age": 30, "hieght": 170, "id": 7}
        assert heard(predictor.record, record, "line 1") == [
            "line 1: no input reads 'hieght'. Did you mean 'height' by 'hieght'?",
            "line 1: no input reads 'id'.",
        ]
        assert heard(predictor.record, record, "line 2") == []
        assert heard(predictor.record, {**self.GOOD, "label": "dark"}, "line 3") == [], "a target is no slip"

    def test_what_was_meant_is_looked_for_once(self, predictor, monkeypatch):
        """Not for every line of JSON: that costs more than reading it."""
        asked = []

        def counting(name, known):
            asked.append(name)
            return ""

        monkeypatch.setattr("perceivers.data.doubts.near_miss", counting)
        lines = [json.dumps({"age": 30, "hieght": 170, "id": 7}).encode()] * 3
        heard(lambda: list(predictor.lines(lines)))
        assert sorted(asked) == ["hieght", "id"]

    def test_when_nothing_is_read_the_hint_is_what_was_meant(self, predictor):
        with pytest.raises(DataError) as caught:
            predictor.record({"agee": 30}, "line 1")
        assert str(caught.value) == (
            "line 1: holds no column of any input: photo (column picture); facts (column age, height). "
            "Did you mean 'age' by 'agee'? Columns: agee."
        )

    def test_an_odd_row_of_json_lines(self, predictor, tmp_path):
        rows = [{"age": 30, "height": 170}, {"agee": 31, "height": 170}, {"age": 32, "height": 180}]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps({"picture": None, **row}) + "\n" for row in rows))
        assert heard(predict, predictor, path) == ["rows.jsonl: no input reads agee. Did you mean 'age' by 'agee'?"]

    def test_a_column_that_stands_beside_the_one_it_is_like_is_another(self):
        table = Table({"height_1": [1, None, 3], "height_2": [1, 2, None], "heigth_1": [None, 5, None]}, "t")
        assert misspelt(table, ["height_1"]) == ["heigth_1"]


class TestRange:
    def told(self, kind: Any, *values: Any) -> list[str]:
        found = Range({"x": kind})
        return heard(lambda: [found.check(Row({"x": kind.parse(value)}, {})) for value in values])

    def test_sixteen_bits_in_a_model_of_eight(self):
        image = np.full((2, 2, 3), (100, 101, 99), np.float32)
        image[:, :, 1] = [[20_000, 30_000], [20_000, 40_000]]
        assert self.told(PHOTO, image, image) == [
            "input 'x': channel 2 is 20000 to 40000, but the model was trained on a mean of 100 with a standard "
            "deviation of 10. Are these other units? Its answer is not to be trusted. Further rows are not told of."
        ]

    def test_up_to_twenty_deviations_nothing_is_said(self):
        assert self.told(WAVE, [20, 20, 20], [-20, None, -20], [], [60.0, 0, 0]) == []
        assert "channel 1 is 20 to 20.5" in self.told(WAVE, [20, 20.5])[0], "padding does not count"
        assert "channel 1 is -21, but" in self.told(WAVE, [None, -21])[0], "what is masked does not count"

    def test_columns(self):
        assert self.told(FACTS, {"age": 240, "height": None}, {"age": None}) == []
        assert "column 'height' is 1.7, but the model was trained on a mean of 170" in self.told(FACTS, [None, 1.7])[0]

    def test_in_predict(self, predictor, tmp_path):
        picture = tmp_path / "deep.png"
        from PIL import Image

        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(picture)
        (said,) = heard(predict, predictor, [picture, picture])
        assert said.startswith("input 'photo': channel 1 is 40000, but the model was trained on a mean of 1")

    def test_the_data_of_training_is_not_told_of(self, trained: Path):
        assert heard(predict, load(trained / "run"), [{"photo": str(trained / toys.rows()[0]["picture"])}]) == []


def test_a_tiny_validation_split():
    assert heard(warn_of_few, FEW) == []
    assert heard(warn_of_few, 1) == [
        "the validation split has 1 row, which chooses the best model, so chance does. Give it 10 or more, better "
        "hundreds, by data.splits; or none, and the last model is kept."
    ]
    assert heard(warn_of_few, 9)[0].startswith("the validation split has 9 rows, which choose the best model")
