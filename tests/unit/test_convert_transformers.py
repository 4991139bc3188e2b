"""Folders of transformers in and out, without that library: what is read, what is refused, what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from perceivers.errors import DataError, ModelError, SpecError
from perceivers.models.build import build
from perceivers.models.convert import import_weights
from perceivers.models.convert.transformers import import_transformers
from perceivers.models.convert.transformers_config import Config, Picture
from perceivers.models.convert.transformers_export import _fitting, export_transformers
from perceivers.models.convert.transformers_spec import spec_data
from perceivers.models.model import Model
from perceivers.models.presets import PRESETS, RELEASED

IMAGE = "PerceiverForImageClassificationFourier"
CONV = "PerceiverForImageClassificationConvProcessing"
TEXT = "PerceiverForSequenceClassification"
SIZES = {
    "num_latents": 4,
    "d_latents": 8,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 1,
    "d_model": 6,
    "max_position_embeddings": 12,
}


def small(name: str, deviations: bool = True, **changes: Any) -> Model:
    config = Config.model_validate({**SIZES, "hidden_act": "gelu_pytorch_tanh", "num_labels": 3, **changes})
    return build(spec_data(name, config, Picture(), deviations), seed=1).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_transformers(small(IMAGE), tmp_path / "theirs")


def change(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    found = load_file(path) | tensors
    save_file({key: value for key, value in found.items() if value is not None}, path)


@pytest.mark.parametrize(("deviations", "computes"), [(True, "what that library does"), (False, "DeepMind's code")])
def test_the_card_says_where_it_is_from(folder, tmp_path, deviations, computes):
    card = (import_weights(folder, tmp_path / "ours", deviations=deviations) / "card.md").read_text()
    assert "imported from `theirs`" in card
    assert computes in card


@pytest.mark.parametrize("name", [IMAGE, CONV, TEXT, "PerceiverForImageClassificationLearned"])
def test_there_and_back(name, tmp_path):
    model = small(name, image_size=16)
    again = import_transformers(export_transformers(model, tmp_path / "out"), deviations=True)
    assert again.spec == model.spec
    assert not again.training
    before, after = model.state_dict(), again.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before if not key.endswith(("hidden", "count")))


def test_an_old_config_with_dead_keys_and_without_new_ones(folder):
    dead = {"seq_len": 2048, "hidden_dropout_prob": 0.1, "position_embedding_init_scale": 0.02, "return_dict": True}
    change(folder, **dead, label2id=None, cross_attention_widening_factor=None, num_blocks=None)
    model = import_transformers(folder)
    assert model.spec.encoder.blocks == 1
    assert model.spec.outputs["label"].labels() == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_a_config_that_names_no_class_is_known_by_its_arrays(folder):
    change(folder, architectures=None)
    assert import_transformers(folder).spec.inputs["image"].lift.kind == "pixels"


def test_how_long_texts_are_stands_in_old_configs_under_another_name(tmp_path):
    folder = export_transformers(small(TEXT), tmp_path / "text")
    change(folder, max_position_embeddings=None, seq_len=12)
    assert import_transformers(folder).spec.inputs["text"].elements() == 12


def test_classes_have_their_names_and_two_of_one_name_their_numbers(folder):
    change(folder, id2label={"0": "crane", "1": "tench", "2": "crane"})
    assert import_transformers(folder).spec.outputs["label"].labels() == ("crane (0)", "tench", "crane (2)")


def test_what_images_are_like_stands_beside(folder, tmp_path):
    about = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 1.0], "size": 112}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    image = import_transformers(folder).spec.inputs["image"]
    assert image.size == (112, 112)
    assert image.mean == (127.5, 127.5, 127.5)
    assert image.std == (127.5, 63.75, 255.0)


def test_running_means_go_on_as_if_they_were_settled(tmp_path):
    model = small(CONV)
    norm = "inputs.image.lift.stem.norms.0"
    model.state_dict()[f"{norm}.mean_average"].fill_(3.0)
    folder = export_transformers(model, tmp_path / "conv")
    found = import_transformers(folder, deviations=True)
    state = found.state_dict()
    assert torch.equal(state[f"{norm}.mean_hidden"], state[f"{norm}.mean_average"])
    found.train()
    found([{"image": torch.zeros(224, 224, 3).numpy()}])
    after = found.state_dict()[f"{norm}.mean_average"]
    batch_mean = (after - 0.9 * 3.0) / 0.1
    torch.testing.assert_close(after, 0.9 * 3.0 + 0.1 * batch_mean)
    assert (after - 2.7).abs().max() < 1


def test_half_precision_becomes_single(folder):
    save_file({k: v.half() for k, v in load_file(folder / "model.safetensors").items()}, folder / "model.safetensors")
    assert {p.dtype for p in import_transformers(folder).parameters()} == {torch.float32}


LATENTS, QUERY = "perceiver.embeddings.latents", "perceiver.encoder.self_attends.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({QUERY: None}, ("1 missing", QUERY)),
        ({"perceiver.stray": torch.zeros(2)}, ("1 not wanted", "perceiver.stray")),
        ({LATENTS: torch.zeros(4, 9)}, (LATENTS, "(4, 9)", "(4, 8)")),
    ],
)
def test_arrays_that_do_not_fit_are_named(folder, tensors, words):
    rewrite(folder, **tensors)
    with pytest.raises(ModelError) as error:
        import_transformers(folder)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"architectures": ["BertModel"]}, ("BertModel", "PerceiverForMaskedLM")),
        ({"architectures": ["PerceiverModel"]}, ("PerceiverModel", "can be imported")),
        ({"hidden_act": "swish"}, ("hidden_act", "swish", "gelu")),
        ({"v_channels": 4}, ("v_channels", "4", "8")),
        ({"problem_type": "multi_label_classification"}, ("multi_label_classification",)),
        ({"id2label": {"0": "a", "2": "b"}}, ("id2label", "0 to 1")),
        ({"model_type": "bert"}, ("bert", "perceiver")),
        ({"num_self_attends_per_block": 100_000}, ("100000", "too few")),
    ],
)
def test_configs_that_cannot_be_models(folder, entries, words):
    change(folder, **entries)
    with pytest.raises(ModelError) as error:
        import_transformers(folder)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("entries", [{"d_latents": "many"}, {"d_latents": -1}, {"num_blocks": 10**9}])
def test_configs_with_numbers_that_are_none(folder, entries):
    change(folder, **entries)
    with pytest.raises(SpecError, match=r"config\.json"):
        import_transformers(folder)


def test_other_vocabularies_are_refused(tmp_path):
    folder = export_transformers(small(TEXT), tmp_path / "text")
    change(folder, vocab_size=30_000)
    with pytest.raises(ModelError, match=r"vocab_size.*262"):
        import_transformers(folder)


def test_what_is_no_folder_of_theirs(tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        import_transformers(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"config\.json"):
        import_transformers(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        import_transformers(tmp_path)


@pytest.mark.parametrize(
    ("part", "entries", "words"),
    [
        ("decoder", {"query_residual": False}, ("decoder.query_residual", "True", "False")),
        ("decoder", {"heads": 2}, ("decoder.heads",)),
        ("encoder", {"block_sharing": "none", "blocks": 2}, ("encoder.block_sharing",)),
        ("encoder", {"cross_attends": 2}, ("encoder.cross_attends",)),
        ("decoder", {"kind": "average"}, ("decoder.kind",)),
    ],
)
def test_models_that_no_class_of_theirs_is_are_not_written(part, entries, words, tmp_path):
    data = small(IMAGE).spec.model_dump(mode="json")
    data[part] = entries if "kind" in entries else {**data[part], **entries}
    with pytest.raises(ModelError) as error:
        export_transformers(build(data, seed=1), tmp_path / "out")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "out").exists()


def test_inputs_that_no_class_of_theirs_reads(tmp_path):
    data = small(IMAGE).spec.model_dump(mode="json")
    data["inputs"]["other"] = data["inputs"]["image"]
    with pytest.raises(ModelError, match=r"image \(image\), other \(image\)"):
        export_transformers(build(data, seed=1), tmp_path / "out")


def test_how_a_language_model_was_trained_changes_nothing_of_it(tmp_path):
    data = small("PerceiverForMaskedLM", d_model=8, qk_channels=8, v_channels=8).spec.model_dump(mode="json")
    (name,) = data["outputs"]
    data["outputs"][name]["mask"] = {"kind": "words"}
    model = build(data, seed=1)
    again = import_transformers(export_transformers(model, tmp_path / "out"), deviations=True)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_a_head_of_two_linears_is_not_written(tmp_path):
    data = small(IMAGE).spec.model_dump(mode="json")
    data["outputs"]["label"]["head"] = {"kind": "mlp"}
    with pytest.raises(ModelError, match=r"there outputs\.label\.head\.kind is 'linear', here it is 'mlp'"):
        export_transformers(build(data, seed=1), tmp_path / "out")


@pytest.mark.parametrize("name", sorted(name for name, row in PRESETS.items() if row.licence == RELEASED))
def test_every_released_preset_has_a_class_there(name):
    assert _fitting(build(name, "meta"))[0].startswith("PerceiverFor")


def test_other_names_of_input_and_output(tmp_path):
    data = small(IMAGE).spec.model_dump(mode="json")
    data["inputs"] = {"photo": data["inputs"]["image"]}
    data["outputs"] = {"species": data["outputs"]["label"]}
    model = build(data, seed=1)
    again = import_transformers(export_transformers(model, tmp_path / "out"))
    assert torch.equal(
        again.state_dict()["outputs.label.head.weight"], model.state_dict()["outputs.species.head.weight"]
    )


def test_nothing_that_is_there_is_written_over(folder):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ModelError, match="exists"):
        export_transformers(small(IMAGE), folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_not_begun(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((ModelError, DataError)):
        export_transformers(small(IMAGE), tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("samples", "rate"), [(1920, 25.0), (480, 100.0)])
def test_frames_of_a_clip_last_as_long_as_its_sound(samples, rate):
    config = Config.model_validate({"audio_samples_per_frame": samples})
    data = spec_data("PerceiverForMultimodalAutoencoding", config, Picture(), False)
    assert data["inputs"]["image"]["rate"] == rate
    sound = data["inputs"]["audio"]
    assert data["inputs"]["image"]["size"][0] / rate == sound["samples"] / sound["rate"]


def test_what_a_clip_is_scored_by_is_the_preset_s():
    data = spec_data("PerceiverForMultimodalAutoencoding", Config.model_validate({}), Picture(), False)
    published = PRESETS["perceiver-io-multimodal"].spec["outputs"]
    for name in ("audio", "image"):
        assert data["outputs"][name]["peak"] == published[name]["peak"]
