"""Whatever is wrong with what a person brings: one clear error, or the row-level behaviour that is documented.

In training every fault is found before the run begins: there is no run folder. In prediction a bad row is a row with an
`error` in its place. Each error says where, what was found, what was wanted and what to do.
"""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toys

from perceivers.errors import DataError, ModelError, PerceiversError, SpecError, TrainingError
from perceivers.predictor import Predictor, predict
from perceivers.training.evaluate import evaluate
from perceivers.training.run import train

STOP = "Repair them, or set data.bad_rows: skip to leave them out."


@pytest.fixture
def people(tmp_path) -> Path:
    folder = tmp_path / "people"
    toys.write_people(folder)
    return folder


def refused(people: Path, error: type[PerceiversError] = DataError, **changes: Any) -> str:
    """The message of a training that is refused; it leaves no run and changes no file."""
    before = toys.tree(people)
    with pytest.raises(error) as caught:
        train(toys.recipe(training__steps=1, **changes), out=people / "run", base=people, quiet=True)
    assert toys.tree(people) == before
    return str(caught.value)


def change(people: Path, row: int, **cells: Any) -> None:
    """Replace cells of the given row, counted from 1."""
    table = toys.rows()
    table[row - 1].update(cells)
    toys.write_csv(people / "people.csv", table)


def listed(fault: str, split: str = "train", rows: int = 24, stop: str = STOP) -> str:
    return f"1 of {rows} rows of the {split} split cannot be read:\n  {fault}\n{stop}"


def row_error(trained: Path, **inputs: Any) -> str:
    """What stands in the place of a bad sample between two good ones."""
    good = {"facts": {"age": 30, "height": 170}}
    first, bad, last = predict(trained / "run", [good, inputs, good])
    assert first["label"] == last["label"]
    assert set(bad) == {"row", "error"}
    return bad["error"]


class TestFiles:
    def test_a_missing_table(self, people):
        assert refused(people, data__source="poeple.csv") == (
            f"{people / 'poeple.csv'}: there is no such file. Did you mean 'people.csv'?"
        )

    def test_a_missing_recipe(self, people):
        toys.write_recipe(people / "toy.yaml")
        with pytest.raises(SpecError, match=r"there is no recipe '.*toi\.yaml'\. Did you mean 'toy\.yaml'\?"):
            train(people / "toi.yaml", out=people / "run")

    def test_a_missing_picture(self, people):
        change(people, 2, picture="pictures/gone.png")
        assert refused(people) == listed(
            f"people.csv, row 2, column 'picture': image file '{people / 'pictures/gone.png'}' does not exist. "
            "Paths in a table are relative to the table."
        )

    def test_a_missing_series(self, people):
        cells = dict.fromkeys(range(48), "wave.npy")
        np.save(people / "wave.npy", np.zeros(4, np.float32))
        cells[5] = "gone.npy"
        toys.write_csv(people / "people.csv", [{**row, "wave": cells[i]} for i, row in enumerate(toys.rows())])
        inputs = {"wave": {"kind": "series", "rate": 1, "seconds": 4}}
        found = refused(people, model__inputs=inputs, training__input_dropout={}, data__columns={})
        assert f"people.csv, row 6, column 'wave': series file '{people / 'gone.npy'}' does not exist" in found

    def test_in_prediction(self, trained):
        assert row_error(trained, photo="gone.png").startswith(
            "sample 2, input 'photo': image file 'gone.png' does not exist"
        )
        with pytest.raises(DataError, match="there is no such file"):
            predict(trained / "run", trained / "gone.csv")


class TestPictures:
    def damage(self, folder: Path) -> dict[str, tuple[bytes, str]]:
        whole = toys.write_picture(folder / "x.png", "dark", 0, (64, 64)).read_bytes()
        return {
            "truncated": (whole[: len(whole) // 2], "is truncated or damaged: "),
            "text": (b"this is no picture", "is not an image, or damaged at its start (PNG, JPEG, "),
            "empty": (b"", "is empty."),
        }

    @pytest.mark.parametrize("name", ["truncated", "text", "empty"])
    def test_in_training(self, people, tmp_path, name):
        data, said = self.damage(tmp_path)[name]
        path = people / "pictures/1.png"
        path.write_bytes(data)
        found = refused(people)
        assert f"  people.csv, row 2, column 'picture': image file '{path}' {said}" in found
        assert found.endswith(STOP)

    @pytest.mark.parametrize("name", ["truncated", "text", "empty"])
    def test_in_prediction(self, trained, tmp_path, name):
        data, said = self.damage(tmp_path)[name]
        assert said in row_error(trained, photo=data) or name == "empty"
        path = tmp_path / "bad.png"
        path.write_bytes(data)
        assert f"sample 2, input 'photo': image file '{path}' {said}" in row_error(trained, photo=path)

    def test_channels(self, people, trained):
        toys.write_picture(people / "pictures/4.png", "dark", 0, (4, 4, 3))
        said = "has 3 channels, but the input takes 1. Set channels: 3 on the input, or convert the images."
        assert f"people.csv, row 5, column 'picture': image file '{people / 'pictures/4.png'}' {said}" in refused(
            people
        )
        assert said in row_error(trained, photo=people / "pictures/4.png")

    def test_size(self, people, trained):
        toys.write_picture(people / "pictures/4.png", "dark", 0, (5, 4))
        said = "the image is 5×4, but the input takes 4×4. Set resize: crop, cut_first or stretch on the input, or "
        assert f"people.csv, row 5, column 'picture': {said}" in refused(people)
        assert said in row_error(trained, photo=people / "pictures/4.png")

    def test_left_out_when_that_is_asked_for(self, people, capfd):
        (people / "pictures/1.png").write_bytes(b"")
        train(toys.recipe(training__steps=1, data__bad_rows="skip"), out=people / "run", base=people)
        assert "train: 23 samples, 1 bad rows left out" in capfd.readouterr().err


class TestTables:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "the file is empty. Its first line must name the columns."),
            (
                "picture,age,height,label,split\n",
                "the table is empty: it names 5 columns, but no rows follow. Give it at least one row.",
            ),
        ],
    )
    def test_empty(self, people, trained, text, said):
        (people / "people.csv").write_text(text)
        found = f"{people / 'people.csv'}: {said}"
        assert refused(people) == found
        for ask in (
            lambda: predict(trained / "run", people / "people.csv"),
            lambda: scored(trained, people / "people.csv"),
        ):
            with pytest.raises(DataError) as caught:
                ask()
            assert str(caught.value) == found

    def test_a_missing_column(self, people, trained):
        toys.write_csv(
            people / "people.csv", [{("aeg" if k == "age" else k): v for k, v in row.items()} for row in toys.rows()]
        )
        found = (
            "people.csv: there is no column 'age' for 'facts'. Did you mean 'aeg'? Columns: picture, aeg, height, "
            "label, split, score. Correct the columns of 'facts' in the recipe."
        )
        assert refused(people) == found
        # Predictions are made of what there is, and the slip is heard.
        with pytest.warns(
            UserWarning, match=r"no column age; taken as missing in every row\. Did you mean 'age' by 'aeg'\?"
        ):
            assert "label" in predict(trained / "run", people / "people.csv")[0]

    def test_a_missing_target(self, people):
        assert refused(people, data__columns={"photo": "picture", "label": "lable"}) == (
            "people.csv: there is no column 'lable' for 'label'. Did you mean 'label'? Columns: picture, age, height, "
            "label, split, score. Map it in the recipe: data.columns: {label: column}."
        )

    def test_a_missing_split_column(self, people):
        found = refused(people, data__splits={"kind": "column", "column": "splits"})
        assert found.startswith("people.csv: there is no column 'splits'. Did you mean 'split'?")

    def test_a_split_that_is_none(self, people):
        change(people, 9, split="trian")
        assert refused(people).startswith(
            "people.csv, row 9, column 'split': 'trian' is no split. Did you mean 'train'?"
        )


def scored(trained: Path, source: Path) -> dict[str, Any]:
    return evaluate(trained / "run", out=source.parent / "scores", source=str(source), quiet=True)


class TestTargets:
    def test_an_unknown_class_in_validation(self, people, trained):
        change(people, 3, label="brihgt")
        fault = (
            "people.csv, row 3, column 'label': class 'brihgt' is not one that the model was made for. "
            "Did you mean 'bright'? Classes: bright, dark, even."
        )
        assert refused(people) == listed(fault, "validation", 12)
        with pytest.raises(DataError) as caught:
            scored(trained, people / "people.csv")
        skip = "leave them out by bad_rows: skip (--bad-rows skip), which lists them all in skipped.csv."
        assert str(caught.value) == listed(fault, "all", 48, f"Repair them, or {skip}")
        assert not (people / "scores").exists()

    def test_all_one_class(self, people):
        toys.write_csv(people / "people.csv", [{**row, "label": "dark"} for row in toys.rows()])
        assert refused(people) == (
            "people.csv, output 'label': the target holds only the class 'dark' in the training split; there is "
            "nothing to tell apart. Check the target column and how the table is split."
        )

    def test_all_empty(self, people):
        toys.write_csv(people / "people.csv", [{**row, "label": ""} for row in toys.rows()])
        assert refused(people).startswith("people.csv, output 'label': the target holds no class at all")

    @pytest.mark.parametrize(
        ("cell", "said"),
        [("inf", "the target is infinite"), ("-inf", "the target is infinite"), ("tall", "'tall' is not a number")],
    )
    def test_a_number_that_is_none(self, people, cell, said):
        change(people, 2, score=cell)
        found = refused(people, model__outputs={"score": {"kind": "number"}})
        assert f"people.csv, row 2, column 'score': {said}" in found

    def test_a_number_that_is_missing_is_unknown(self, people):
        change(people, 2, score="NaN")
        recipe = toys.recipe(training__steps=1, model__outputs={"score": {"kind": "number"}})
        assert train(recipe, out=people / "run", base=people, quiet=True).steps == 1


class TestNotFinite:
    @pytest.mark.parametrize("cell", ["NaN", "inf", "-inf", ""])
    def test_in_numbers_it_is_masked_and_counted(self, people, capfd, cell):
        change(people, 2, age=cell)
        train(toys.recipe(training__steps=2), out=people / "run", base=people)
        assert "  facts: 1 cell masked (NaN, infinite or empty)\n" in capfd.readouterr().err

    @pytest.mark.parametrize("cell", ["NaN", "inf"])
    def test_or_an_error(self, people, cell):
        change(people, 2, age=cell)
        assert refused(people, model__inputs__facts__nan="error") == listed(
            "people.csv, row 2: the row holds 1 NaN or infinite elements and 'nan: error' is set; "
            "repair the data, or set nan: mask."
        )

    def test_in_a_picture(self, trained):
        """A masked pixel changes nothing, whatever its value, and so does a row of numbers."""
        pixels = np.full((4, 4, 1), 100, np.float32)
        answers = []
        for value in (np.nan, np.inf, -np.inf):
            pixels[1, 2] = value
            answers += predict(trained / "run", [{"photo": pixels.copy(), "facts": {"age": value, "height": 170}}])
        assert answers[0] == answers[1] == answers[2]
        assert "label" in answers[0]

    def test_what_is_finite_but_cannot_be_held(self, trained):
        with pytest.warns(UserWarning, match="Are these other units"):
            found = row_error(trained, facts={"age": 1e300, "height": 1})
        assert found == "'label' has no finite answer; look for extreme values in the row."


class TestText:
    def test_a_table_that_is_not_utf8(self, people, trained):
        path = people / "people.csv"
        path.write_bytes(path.read_bytes().replace(b"dark", b"d\xe4rk", 1))
        found = refused(people)
        assert found.startswith(f"{path}, row ")
        assert "column 'label': byte " in found
        assert "(0xe4) is not UTF-8. Save the file again as UTF-8; it may be Windows-1252 or Latin-1 now." in found
        with pytest.raises(DataError, match="is not UTF-8"):
            predict(trained / "run", path)

    def test_a_recipe_that_is_not_utf8(self, people):
        (people / "toy.yaml").write_bytes(b"# caf\xe9\nmodel: {}\n")
        with pytest.raises(SpecError, match=r"toy\.yaml: not UTF-8 \(byte 5 is 0xe9\); save it as UTF-8\."):
            train(people / "toy.yaml", out=people / "run")
        assert not (people / "run").exists()

    def test_a_cell_that_is_not_utf8(self, people):
        """Parquet can hold any bytes."""
        table = toys.rows()
        notes = [b"caf\xe9" if i == 4 else b"fine" for i in range(len(table))]
        columns = {key: [row[key] for row in table] for key in table[0]}
        pq.write_table(pa.table({**columns, "note": pa.array(notes, pa.binary())}), people / "people.parquet")
        inputs = {"note": {"kind": "text", "length": 8}}
        found = refused(
            people, model__inputs=inputs, training__input_dropout={}, data__source="people.parquet", data__columns={}
        )
        assert found == listed(
            "people.parquet, row 5, column 'note': the text is not UTF-8: byte 3 is 0xe9; save it as UTF-8."
        )


class TestRecipe:
    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("training__batchsize", 3, "training.batchsize: unknown key. Did you mean 'batch_size'?"),
            ("model__inputs__photo__chanels", 3, "model.inputs.photo.chanels: unknown key. Did you mean 'channels'?"),
            ("model__inputs__photo__kind", "imgae", "model.inputs.photo: unknown kind 'imgae'. Did you mean 'image'?"),
            ("data__sources", "x", "data.sources: unknown key. Did you mean 'source'?"),
            ("evaluation__spilt", "test", "evaluation.spilt: unknown key. Did you mean 'split'?"),
        ],
    )
    def test_a_misspelt_key(self, people, key, value, said):
        assert said in refused(people, SpecError, **{key: value})


class TestModelDirectory:
    @pytest.fixture
    def model(self, trained, tmp_path) -> Path:
        return Path(shutil.copytree(trained / "run" / "model", tmp_path / "model"))

    def both(self, model: Path) -> list[Callable[[], Any]]:
        return [lambda: Predictor(model), lambda: evaluate(model, out=model.parent / "scores", quiet=True)]

    @pytest.mark.parametrize("name", ["model.safetensors", "spec.json", "labels.json", "manifest.json"])
    def test_a_file_is_missing(self, model, name):
        (model / name).unlink()
        for ask in self.both(model):
            with pytest.raises(ModelError) as caught:
                ask()
            assert f"'{model}' is not a whole model directory: {name} is missing. It holds: " in str(caught.value)

    @pytest.mark.parametrize("name", ["model.safetensors", "spec.json", "labels.json"])
    def test_a_file_was_edited(self, model, name):
        data = bytearray((model / name).read_bytes())
        data[len(data) // 2] ^= 1
        (model / name).write_bytes(data)
        for ask in self.both(model):
            with pytest.raises(ModelError) as caught:
                ask()
            assert f"'{model / name}' is not the file that was saved" in str(caught.value)
        assert not (model.parent / "scores").exists()

    def test_what_people_may_edit(self, model, trained):
        (model / "card.md").write_text("# Mine")
        assert predict(model, [{"facts": {"age": 3}}]) == predict(trained / "run", [{"facts": {"age": 3}}])


def test_an_existing_run(people):
    train(toys.recipe(training__steps=1), out=people / "run", base=people, quiet=True)
    found = refused(people, TrainingError)
    assert found == (
        f"'{people / 'run'}' exists. Go on with it by --resume (resume=True), or give another folder by --out (out=…)."
    )


def test_an_input_that_was_never_missing_warns(people):
    """The documented behaviour: an answer, and a warning at load that it is untried."""
    result = train(
        toys.recipe(training__steps=1, training__input_dropout={}), out=people / "run", base=people, quiet=True
    )
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        (answer,) = predict(result.model, [{"facts": {"age": 3, "height": 4}}])
    assert "label" in answer
    assert ["answers without are untried" in str(w.message) for w in heard] == [True]
