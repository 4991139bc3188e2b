"""`training.start_from`: another model's weights where names and shapes agree."""

import json
import shutil

import numpy as np
import pytest
import torch
from toys import recipe, write_people

import perceivers
from perceivers.errors import ModelError, TrainingError
from perceivers.models.build import build
from perceivers.models.spec import as_spec
from perceivers.training import start as start_module
from perceivers.training.checkpoints import latest_checkpoint
from perceivers.training.module import Training
from perceivers.training.start import Start, begin_with, with_learned

SPEC = {
    "inputs": {"facts": {"kind": "number", "columns": ["age"], "channels": 8, "mean": [40], "std": [9]}},
    "latents": {"count": 4, "channels": 16},
    "encoder": {"layers": 1, "self_attend": {"heads": 2}},
    "outputs": {"label": {"kind": "category", "classes": ["a", "b"]}},
}


def spec(**changes):
    made = json.loads(json.dumps(SPEC))
    for key, value in changes.items():
        *path, last = key.split("__")
        place = made
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return made


def started(tmp_path, own, other=None):
    """Of a model of `own` begun with one of `other`: the model, that one's weights, what was told."""
    model, there = build(own, seed=1), build(other or SPEC, seed=2)
    told = begin_with(model, Start(tmp_path, there.spec, there.state_dict()))
    return model.state_dict(), there.state_dict(), "\n".join(told)


def equal(own, other, part):
    names = [name for name in own if name.startswith(part)]
    assert names
    return all(name in other and torch.equal(own[name], other[name]) for name in names)


class TestBeginning:
    def test_the_same_model_is_taken_over_whole(self, tmp_path):
        own, other, told = started(tmp_path, SPEC)
        assert equal(own, other, "")
        assert told.startswith(f"begun with '{tmp_path}': ")
        assert "\n" not in told

    def test_an_output_of_another_name_or_with_other_classes_is_new(self, tmp_path):
        for changes in (
            {"outputs": {"ill": {"kind": "category", "classes": ["a", "b"]}}},
            {"outputs__label__classes": ["a", "c"]},
            {"outputs": {"label": {"kind": "number", "mean": [0, 0], "std": [1, 1], "columns": ["x", "y"]}}},
        ):
            own, other, told = started(tmp_path, spec(**changes))
            assert equal(own, other, "inputs.facts")
            assert equal(own, other, "encoder")
            assert equal(own, other, "decoder")
            (name,) = as_spec(spec(**changes)).outputs
            assert not equal(own, other, f"outputs.{name}.query")
            assert f"new here: outputs.{name}\n" in told
            assert "left there: outputs.label" in told

    def test_what_has_another_shape_is_new_and_is_named(self, tmp_path):
        own, other, told = started(tmp_path, spec(latents__count=6))
        assert equal(own, other, "encoder.blocks")
        assert own["encoder.latents"].shape != other["encoder.latents"].shape
        assert "encoder (" in told
        assert "encoder.latents is (6, 16) here and (4, 16) there" in told

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"encoder__self_attend": {"heads": 4}}, "encoder.self_attend.heads is 4 here and 2 there"),
            ({"encoder__activation": "gelu"}, "encoder.activation is gelu here and gelu_tanh there"),
            ({"encoder__blocks": 2}, "encoder.blocks is 2 here and 1 there"),
            (
                {"decoder": {"kind": "cross_attend", "query_residual": False}},
                "decoder.query_residual is False here and True there",
            ),
        ],
    )
    def test_what_no_shape_tells_is_told(self, tmp_path, changes, said):
        own, other, told = started(tmp_path, spec(**changes))
        assert equal(own, other, "encoder")
        assert f"  {said}: its weights were found with that" in told

    def test_so_are_settings_of_inputs_and_outputs(self, tmp_path):
        photo = {
            "kind": "image",
            "size": [8, 8],
            "mean": [0] * 3,
            "std": [1] * 3,
            "position": {"kind": "fourier", "bands": 2, "resolution": [8, 8]},
        }
        pair = {"kind": "image_pair", "size": [16, 16], "columns": ["one", "two"]}
        # Without weights of its own, and with.
        there = spec(inputs__photo=photo, inputs__pair=pair, outputs={"flow": {"kind": "flow", "input": "pair"}})
        here = json.loads(json.dumps(there))
        here["inputs"]["photo"]["position"]["resolution"] = [9, 8]
        here["inputs"]["pair"]["columns"] = ["first", "second"]
        here["outputs"]["flow"]["rescale"] = 3
        told = started(tmp_path, here, there)[2]
        found = ": its weights were found with that"
        assert f"  inputs.photo.position.resolution is [9.0, 8.0] here and [8.0, 8.0] there{found}" in told
        assert "  outputs.flow.rescale is 3.0 here and " in told
        assert "columns" not in told

    def test_long_values_are_not_shown(self, tmp_path):
        said = started(tmp_path, spec(inputs__facts__mean=[41]))[2]
        assert "inputs.facts.mean is [41.0] here and [40.0] there" in said
        columns = [f"c{n}" for n in range(20)]
        facts = {"kind": "number", "columns": columns, "channels": 8, "std": [1] * 20}
        here, there = (spec(inputs={"facts": {**facts, "mean": [mean] * 20}}) for mean in (3, 4))
        said = started(tmp_path, here, there)[2]
        assert "inputs.facts.mean is another there: its weights were found with that" in said

    def test_of_many_tensors_of_other_shapes_three_are_named(self, tmp_path):
        told = started(tmp_path, spec(encoder__self_attend={"heads": 2, "widening": 2}, latents__count=5))[2]
        assert sum(line.endswith(" there") for line in told.splitlines()) == 3
        assert "  and 1 more of another shape" in told

    def test_what_only_training_reads_is_not_told(self, tmp_path):
        assert " there: " not in started(tmp_path, spec(encoder__dropout=0.1))[2]

    def test_a_decoder_of_another_kind_is_left(self, tmp_path):
        told = started(tmp_path, spec(decoder={"kind": "average"}))[2]
        assert "left there: decoder" in told

    def test_more_layers_are_new(self, tmp_path):
        own, other, told = started(tmp_path, spec(encoder__layers=2))
        assert equal(own, other, "encoder.latents")
        assert equal(own, other, "encoder.cross_attends")
        assert "tensors)" in told

    def test_an_input_of_another_name_is_told_of(self, tmp_path):
        own, other, told = started(tmp_path, spec(inputs={"numbers": SPEC["inputs"]["facts"]}))
        assert equal(own, other, "encoder")
        assert "Input 'numbers' is new; 'facts' there has its shapes: call it so to begin with that." in told

    def test_columns_and_classes_decide_what_a_row_of_weights_means(self, tmp_path):
        own, other, told = started(tmp_path, spec(inputs__facts__columns=["height"]))
        assert not equal(own, other, "inputs.facts")
        assert "new here: inputs.facts" in told

    def test_nothing_in_common(self, tmp_path):
        with pytest.raises(ModelError) as caught:
            started(tmp_path, spec(latents__channels=32, inputs__facts__channels=4))
        said = str(caught.value)
        assert f"nothing of '{tmp_path}' fits this model" in said
        assert "here and" in said
        assert "Take the sizes of its spec.json" in said

    def test_several_queries_keep_the_decoder_where_nothing_is_added_to_them(self, tmp_path):
        outputs = {n: {"kind": "category", "classes": ["x", "y"]} for n in ("one", "two")}
        decoder = {"kind": "cross_attend", "padding": 0}
        own, other, _ = started(tmp_path, spec(outputs=outputs, decoder=decoder))
        assert equal(own, other, "decoder")
        own, other, _ = started(tmp_path, spec(outputs=outputs))
        assert not equal(own, other, "decoder")


class TestLearned:
    def inputs(self, **changes):
        return as_spec(spec(**changes)).inputs

    def test_statistics_that_a_recipe_leaves_open_are_taken_over(self):
        found = with_learned(self.inputs(inputs__facts__mean=None, inputs__facts__std=None), self.inputs())["facts"]
        assert (found.mean, found.std) == ((40.0,), (9.0,))

    def test_those_that_it_gives_are_not(self):
        assert with_learned(self.inputs(inputs__facts__mean=[7]), self.inputs())["facts"].mean == (7.0,)

    def test_those_of_other_columns_or_kinds_are_not(self):
        open_ = {"inputs__facts__mean": None, "inputs__facts__std": None}
        other = self.inputs(inputs__facts__columns=["height"])
        assert with_learned(self.inputs(**open_), other)["facts"].mean is None
        other = self.inputs(inputs={"facts": {"kind": "category", "columns": ["age"], "classes": {"age": ["1"]}}})
        assert with_learned(self.inputs(**open_), other)["facts"].mean is None

    def test_classes_keep_their_order(self):
        kind = {"kind": "category", "columns": ["c"]}
        own = self.inputs(inputs={"tags": kind})
        other = self.inputs(inputs={"tags": {**kind, "classes": {"c": ["z", "a"]}}})
        assert with_learned(own, other)["tags"].classes == {"c": ("z", "a")}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with data, the run `first`, its model in `pretrained`, and the run `second` that was begun with it."""
    folder = tmp_path_factory.mktemp("begun")
    write_people(folder)
    perceivers.train(recipe(training__steps=4), out=folder / "first", quiet=True, base=folder)
    shutil.copytree(folder / "first" / "model", folder / "pretrained")
    perceivers.train(second(4), out=folder / "second", quiet=True, base=folder)
    return folder


def second(steps, **changes):
    """The recipe of the other task, with an output that the first model does not have."""
    own = {
        "model__outputs": {"score": {"kind": "number"}},
        "training__start_from": "pretrained",
        "training__steps": steps,
        "training__evaluate_every": 2,
    }
    return recipe(**own | changes)


class TestTraining:
    def test_the_first_step_begins_there(self, begun, tmp_path):
        """With steps that move nothing, the weights are those of the first model, and the rest is the seed's draw."""
        run = perceivers.train(second(1, training__lr=1e-30), out=tmp_path / "run", quiet=True, base=begun)
        own, other = (perceivers.load(f).state_dict() for f in (run.model, begun / "pretrained"))
        for part in ("inputs", "fusion", "encoder", "decoder"):
            assert equal(own, other, part)
        plain = perceivers.train(
            second(1, training__lr=1e-30, training__start_from=None), out=tmp_path / "plain", quiet=True, base=begun
        )
        drawn = perceivers.load(plain.model).state_dict()
        assert equal(own, drawn, "outputs.score.query")
        assert not equal(own, drawn, "encoder")

    def test_it_is_told_and_in_the_card(self, begun, capsys, tmp_path):
        perceivers.train(second(1), out=tmp_path / "run", base=begun)
        said = capsys.readouterr().err
        assert f"begun with '{begun / 'pretrained'}': " in said
        assert "new here: outputs.score" in said
        assert "left there: outputs.label" in said
        card = (tmp_path / "run" / "model" / "card.md").read_text()
        assert f"- begun with '{begun / 'pretrained'}': " in card
        assert perceivers.load(tmp_path / "run").trained.begun_with[0].startswith("begun with ")

    def test_statistics_are_those_of_the_first_model(self, begun, tmp_path):
        """Here from other data, whose own are others."""
        (tmp_path / "data").mkdir()
        write_people(tmp_path / "data", seed=9)
        shutil.copytree(begun / "pretrained", tmp_path / "data" / "pretrained")
        run = perceivers.train(second(1), out=tmp_path / "run", quiet=True, base=tmp_path / "data")
        first, own = (perceivers.load(f).spec.inputs["facts"] for f in (begun / "pretrained", run.model))
        assert own.mean == first.mean
        alone = second(1, training__start_from=None)
        other = perceivers.train(alone, out=tmp_path / "alone", quiet=True, base=tmp_path / "data")
        assert perceivers.load(other.model).spec.inputs["facts"].mean != first.mean

    def test_a_run_folder_will_do(self, begun, tmp_path):
        run = perceivers.train(second(1, training__start_from="first"), out=tmp_path / "run", quiet=True, base=begun)
        assert str(begun / "first" / "model") in perceivers.load(run.model).trained.begun_with[0]

    @pytest.mark.parametrize(
        ("place", "error", "said"),
        [
            (
                "pretraind",
                ModelError,
                "^training.start_from: there is no .*Did you mean 'pretrained'.* recipe's folder",
            ),
            ("pictures", ModelError, "is not a whole model directory"),
        ],
    )
    def test_a_folder_that_is_none(self, begun, tmp_path, place, error, said):
        with pytest.raises(error, match=said):
            perceivers.train(second(1, training__start_from=place), out=tmp_path / "run", quiet=True, base=begun)
        assert not (tmp_path / "run").exists()

    def test_an_altered_model_is_refused(self, begun, tmp_path):
        shutil.copytree(begun / "pretrained", tmp_path / "altered")
        text = (tmp_path / "altered" / "spec.json").read_text()
        (tmp_path / "altered" / "spec.json").write_text(text.replace("16", "17"))
        with pytest.raises(ModelError, match="is not the file that was saved"):
            perceivers.train(
                second(1, training__start_from=str(tmp_path / "altered")), out=tmp_path / "run", quiet=True, base=begun
            )


class TestResuming:
    def test_a_resumed_run_does_not_read_it_again_and_is_bit_for_bit_the_same(self, begun, tmp_path, monkeypatch):
        folder = tmp_path / "here"
        shutil.copytree(begun, folder)
        whole = perceivers.train(second(8, training__ema=0.5), out=folder / "whole", quiet=True, base=folder)
        # The same run, stopped after 4 of 8 steps.
        parts = folder / "parts"
        with monkeypatch.context() as patch:
            inner = Training.on_train_batch_end

            def stop(self, *args):
                if self.done == 3:
                    self.stopped_by = "SIGTERM"
                inner(self, *args)

            patch.setattr(Training, "on_train_batch_end", stop)
            stopped = perceivers.train(second(8, training__ema=0.5), out=parts, quiet=True, base=folder)
        assert stopped.steps == 4
        shutil.rmtree(folder / "pretrained")

        def read(folder):
            raise AssertionError("it is read again")

        monkeypatch.setattr(start_module, "read_stored", read)
        done = perceivers.train(second(8, training__ema=0.5), out=parts, quiet=True, base=folder, resume=True)
        assert done.steps == 8
        states = [latest_checkpoint(run / "checkpoints", print)[1] for run in (folder / "whole", parts)]
        assert states[0]["model"].keys() == states[1]["model"].keys()
        assert all(torch.equal(tensor, states[1]["model"][name]) for name, tensor in states[0]["model"].items())
        assert states[0]["begun_with"] == states[1]["begun_with"]
        own, other = (perceivers.load(run) for run in (whole.run, parts))
        assert own.trained == other.trained
        assert other.trained.begun_with
        assert own.spec == other.spec

    def test_another_model_is_another_recipe(self, begun, tmp_path):
        shutil.copytree(begun / "second", tmp_path / "run")
        with pytest.raises(TrainingError, match=r"begun with another recipe \(training.start_from "):
            perceivers.train(
                second(8, training__start_from="first"), out=tmp_path / "run", quiet=True, base=begun, resume=True
            )

    def test_a_run_without_it_has_none(self, begun):
        assert perceivers.load(begun / "first").trained.begun_with == ()


def test_an_mlp_head_reads_the_answer():
    made = build(spec(outputs__label__head={"kind": "mlp", "channels": 5}), seed=0)
    shapes = {n: tuple(t.shape) for n, t in made.state_dict().items() if n.startswith("outputs.label.head")}
    assert list(shapes.values()) == [(5, 16), (5,), (2, 5), (2,)]
    head = made.outputs["label"]
    answers = torch.randn(3, 1, 16)
    first, _, last = head.head
    expected = torch.tanh(answers[:, 0] @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(head.predict(answers, None), expected)
    assert head.flops({}) == 2 * (16 * 5 + 5 * 2)
    wide = build(spec(outputs={"x": {"kind": "number", "mean": [0], "std": [1], "head": {"kind": "mlp"}}}))
    assert wide.outputs["x"].head[0].out_features == 16
    averaged = build(spec(outputs__label__head={"kind": "mlp"}, decoder={"kind": "average"}))
    assert not averaged([{"facts": {"age": 3}}])["label"].any()
    np.testing.assert_equal(averaged.outputs["label"].query, None)


def test_texts_may_come_from_other_columns(tmp_path):
    """A byte means the same in each, so a pair of sentences begins with a model of single ones."""
    text = {"kind": "text", "length": 8, "channels": 8}
    own, other, told = started(
        tmp_path,
        spec(inputs={"text": {**text, "columns": ["a", "b"]}}),
        spec(inputs={"text": text}),
    )
    assert equal(own, other, "")
    assert "new here" not in told
