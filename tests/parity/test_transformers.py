"""Models of transformers with the same weights here and there: the same answers, and folders that go both ways."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from their_models import SMALL, TEXT, saved, their_model, transformers
from torch import Tensor

from perceivers.elements import Batch, Elements
from perceivers.models.convert.transformers import import_transformers
from perceivers.models.convert.transformers_export import export_transformers
from perceivers.models.model import Model
from perceivers.nn.stem import windows_around

pytestmark = pytest.mark.parity

# float32 sums in another order; of Fourier features, sines of some hundreds of radians in float32 there.
SAME = {"rtol": 0.0, "atol": 1e-5}
IMAGES = ("Fourier", "Learned", "ConvProcessing")
TEXTS = ("SequenceClassification", "MaskedLM")
FLOW = "OpticalFlow"
CLIP = "MultimodalAutoencoding"
OTHERS = (*TEXTS, FLOW, CLIP)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def unnormalised(model: Model, pixels: Tensor) -> Batch:
    """Raw pixels (B, 3, H, W) that the model normalises to `pixels`."""
    image = model.inputs["image"]
    flat = pixels.flatten(2).transpose(1, 2)
    return Batch({"image": Elements(flat * image.std + image.mean, grid=tuple(pixels.shape[2:]))}, len(pixels))


@torch.no_grad()
def image_answers(theirs: Any, ours: Model, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    pixels = drawn(2, 3, *size)
    return theirs(pixel_values=pixels).logits, ours(unnormalised(ours, pixels))["label"]


@torch.no_grad()
def text_answers(theirs: Any, ours: Model) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 262, (3, 32), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(32)[None] < torch.tensor([[20], [32], [3]])
    batch = Batch({"text": Elements(ids[..., None], grid=(32,), mask=mask)}, 3)
    return theirs(input_ids=ids, attention_mask=mask.long()).logits, next(iter(ours(batch).values()))


@torch.no_grad()
def flow_answers(theirs: Any, ours: Model) -> tuple[Tensor, Tensor]:
    """Each frame's 3 × 3 neighbours as channels (row, column, colour), which their callers make."""
    frames = drawn(2, 2, 8, 12, 3)
    patches = torch.stack([windows_around(frame, 3) for frame in frames.unbind(1)], dim=1)
    pixels = frames.movedim(1, 3).flatten(3).flatten(1, 2) * 127.5 + 127.5
    batch = Batch({"pair": Elements(pixels, grid=(8, 12))}, 2)
    return theirs(inputs=patches.movedim(-1, 2)).logits, ours(batch)["flow"]


@torch.no_grad()
def clip_answers(theirs: Any, ours: Model) -> tuple[Tensor, Tensor]:
    """Some points of a clip, and its label; theirs cannot answer all points at once."""
    sound, frames, label = drawn(2, 128, 1), drawn(2, 4, 3, 8, 8), torch.eye(7)[:2]
    points = {"image": torch.tensor([0, 17, 255]), "audio": torch.tensor([15, 2])}
    found = theirs(
        inputs={"image": frames, "audio": sound, "label": label},
        subsampled_output_points={**points, "label": None},
    ).logits
    pixels = 255 * frames.movedim(2, -1).flatten(1, 3)
    elements = {"audio": Elements(sound, grid=(128,)), "image": Elements(pixels, grid=(4, 8, 8))}
    answer = ours.decode(ours.encode(Batch(elements, 2)), points=points)
    return tuple(torch.cat([part[name].flatten(1) for name in sorted(part)], dim=1) for part in (found, answer))


def answers(kind: str, theirs: Any, ours: Model) -> tuple[Tensor, Tensor]:
    if kind == CLIP:
        return clip_answers(theirs, ours)
    if kind == FLOW:
        return flow_answers(theirs, ours)
    if kind in TEXTS:
        return text_answers(theirs, ours)
    return image_answers(theirs, ours, (8, 8) if kind == "Learned" else (32, 24))


def class_name(kind: str) -> str:
    return f"PerceiverFor{kind}" if kind in OTHERS else f"PerceiverForImageClassification{kind}"


@pytest.mark.parametrize("kind", [*IMAGES, *OTHERS])
def test_same_answers_with_their_deviations(kind, tmp_path):
    theirs = their_model(class_name(kind))
    ours = import_transformers(saved(theirs, tmp_path / "theirs"), deviations=True)
    their_answers, our_answers = answers(kind, theirs, ours)
    torch.testing.assert_close(our_answers, their_answers, **SAME)


@torch.no_grad()
def test_the_queries_of_a_long_sound_are_theirs_with_their_deviations(tmp_path):
    """In float32 the sines of 30,720 samples are off by thousandths, of what is read and of what asks."""
    theirs = their_model(class_name(CLIP), audio_samples_per_frame=7680, samples_per_patch=16)
    ours = import_transformers(saved(theirs, tmp_path / "theirs"), deviations=True)
    sound, frames, points = drawn(1, 30720, 1), drawn(1, 4, 3, 8, 8), torch.arange(0, 1920, 50)
    found = theirs(
        inputs={"image": frames, "audio": sound, "label": torch.zeros(1, 7)},
        subsampled_output_points={"audio": points, "image": torch.tensor([0]), "label": None},
    ).logits["audio"]
    pixels = 255 * frames.movedim(2, -1).flatten(1, 3)
    batch = Batch({"audio": Elements(sound, grid=(30720,)), "image": Elements(pixels, grid=(4, 8, 8))}, 1)
    answer = ours.decode(ours.encode(batch), outputs=["audio"], points={"audio": points})["audio"]
    torch.testing.assert_close(answer.flatten(), found.flatten(), **SAME)


@pytest.mark.parametrize("kind", ["Fourier", *OTHERS])
def test_without_them_the_answers_are_those_of_the_activation_that_deepmind_trained_with(kind, tmp_path):
    theirs = their_model(class_name(kind))
    ours = import_transformers(saved(theirs, tmp_path / "theirs"))
    tanh = their_model(class_name(kind), hidden_act="gelu_pytorch_tanh")
    their_answers, our_answers = answers(kind, tanh, ours)
    if kind == "MaskedLM":
        # Bytes that are not there are not asked for.
        read = torch.arange(32)[None] < torch.tensor([[20], [32], [3]])
        their_answers, our_answers = their_answers[read], our_answers[read]
    if kind == FLOW:
        our_answers = our_answers / 20
    # Fourier features of 192 bands are exact here, and sines in float32 there.
    same = {"rtol": 0.0, "atol": 3e-5} if kind == CLIP else SAME
    torch.testing.assert_close(our_answers, their_answers, **same)


def test_without_them_the_kernels_of_the_stem_are_put_right_and_the_learned_model_has_no_residual(tmp_path):
    theirs = saved(their_model(class_name("ConvProcessing")), tmp_path / "conv")
    kernel = "inputs.image.lift.stem.convolutions.0.weight"
    as_stored, put_right = (import_transformers(theirs, d).state_dict()[kernel] for d in (True, False))
    assert torch.equal(put_right, as_stored.transpose(2, 3))
    assert not torch.equal(put_right, as_stored)
    learned = import_transformers(saved(their_model(class_name("Learned")), tmp_path / "learned"))
    assert not learned.spec.decoder.query_residual


@pytest.mark.parametrize("changes", [{"cross_attention_shape_for_attention": "q"}, {"use_query_residual": False}])
@pytest.mark.parametrize("kind", ["Fourier", "SequenceClassification", FLOW])
def test_settings_of_the_encoder_are_read(kind, changes, tmp_path):
    wide = {"self_attention_widening_factor": 2, "cross_attention_widening_factor": 3, "hidden_act": "relu2"}
    theirs = their_model(class_name(kind), **changes, **wide)
    ours = import_transformers(saved(theirs, tmp_path / "theirs"), deviations=True)
    their_answers, our_answers = answers(kind, theirs, ours)
    torch.testing.assert_close(our_answers, their_answers, **SAME)


def test_a_number_instead_of_classes(tmp_path):
    theirs = their_model(class_name("SequenceClassification"), num_labels=1)
    ours = import_transformers(saved(theirs, tmp_path / "theirs"), deviations=True)
    assert ours.spec.outputs["label"].kind == "number"
    their_answers, our_answers = text_answers(theirs, ours)
    torch.testing.assert_close(our_answers, their_answers, **SAME)
    assert_loads(export_transformers(ours, tmp_path / "ours"), class_name("SequenceClassification"))


@pytest.mark.parametrize("kind", [*IMAGES, *OTHERS])
def test_there_and_back_every_array_is_the_same(kind, tmp_path):
    theirs = saved(their_model(class_name(kind)), tmp_path / "theirs")
    back = export_transformers(import_transformers(theirs, deviations=True), tmp_path / "back")
    before, after = (load_file(folder / "model.safetensors") for folder in (theirs, back))
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded = assert_loads(back, class_name(kind))
    asked = {"hidden_act", "num_labels", *SMALL, *(TEXT if kind in TEXTS else ())}
    original = json.loads((theirs / "config.json").read_text())
    assert all(getattr(loaded.config, key) == original[key] for key in asked if key in original)


def assert_loads(folder: Path, name: str) -> Any:
    """Their model of the folder, into which every array went."""
    model, told = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model.eval()


def test_a_model_of_deepminds_answers_there_as_here_where_that_can_be(tmp_path):
    ours = import_transformers(saved(their_model(class_name("Fourier")), tmp_path / "theirs"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = assert_loads(export_transformers(ours, tmp_path / "ours"), class_name("Fourier"))
    their_answers, our_answers = image_answers(theirs, ours, (24, 20))
    torch.testing.assert_close(our_answers, their_answers, **SAME)


@pytest.mark.parametrize(
    ("kind", "word"), [("Learned", "query"), ("ConvProcessing", "pads"), ("MaskedLM", "bytes"), (FLOW, "pixels")]
)
def test_where_it_cannot_be_the_export_warns_and_comes_back_as_it_was(kind, word, tmp_path):
    ours = import_transformers(saved(their_model(class_name(kind)), tmp_path / "theirs"))
    with pytest.warns(UserWarning, match=word):
        folder = export_transformers(ours, tmp_path / "ours")
    assert_loads(folder, class_name(kind))
    again = import_transformers(folder)
    assert again.spec == ours.spec
    before, after = ours.state_dict(), again.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_state_dict_of_torch_is_read_too(tmp_path):
    theirs = their_model(class_name("ConvProcessing"))
    folder = saved(theirs, tmp_path / "theirs")
    same = import_transformers(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    found = import_transformers(folder).state_dict()
    assert all(torch.equal(found[name], same[name]) for name in same)


def test_what_prepares_raw_values_loads_there(tmp_path):
    image = import_transformers(saved(their_model(class_name("Fourier")), tmp_path / "image"), deviations=True)
    processor = transformers.AutoImageProcessor.from_pretrained(export_transformers(image, tmp_path / "out"))
    picture = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    batch = image.collate([{"image": picture.permute(1, 2, 0).numpy()}])
    lifted = image.inputs["image"](batch.inputs["image"]).content
    torch.testing.assert_close(lifted, pixels.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)
    text = import_transformers(saved(their_model(class_name("SequenceClassification")), tmp_path / "text"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(export_transformers(text, tmp_path / "text_out"))
    ids = tokenizer("né", add_special_tokens=False)["input_ids"]
    assert ids == text.collate([{"text": "né"}]).inputs["text"].values[0, : len(ids), 0].tolist()
