"""The papers' recipes of ImageNet: what they say, what they build, and their small forms on images made here."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import perceivers
from perceivers.models.build import build
from perceivers.models.presets import preset
from perceivers.models.spec import Spec
from perceivers.training.optimisers import Lamb
from perceivers.training.recipe import Recipe, read_recipe
from perceivers.training.schedules import lr_factor

PAPER = Path(__file__).resolve().parents[2] / "recipes" / "paper"
OF_IO = {f"imagenet-{name}": f"perceiver-io-imagenet-{name}" for name in ("fourier", "learned", "conv")}
OF_2021 = dict.fromkeys(("imagenet-2021", "imagenet-permuted"), "perceiver-imagenet-fourier")
CLASSES = ("n01440764", "n01443537", "n01484850")


def small(name: str) -> list[str]:
    """The overrides of the recipe's header."""
    text = (PAPER / f"{name}.yaml").read_text(encoding="utf-8")
    found = re.search(r"^# small:((?:.*\n)(?:#            .*\n)*)", text, re.MULTILINE)
    assert found is not None, "the header has a small form"
    return shlex.split(found[1].replace("#", ""))


def parameters(recipe: Recipe) -> int:
    """Of the recipe's model with the thousand classes of ImageNet, built without memory."""
    label = recipe.model.outputs["label"].with_labels([str(n) for n in range(1000)])
    model = build(Spec(**{**dict(recipe.model), "outputs": {"label": label}}), device="meta")
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "of"), [*OF_IO.items(), *OF_2021.items()])
def test_the_model_is_the_preset_read_as_in_training(name, of):
    recipe = read_recipe(PAPER / f"{name}.yaml")
    assert parameters(recipe) == preset(of).parameters
    image = recipe.model.inputs["image"]
    assert (image.resize, image.size) == ("centre_unclamped", (224, 224))
    augmentation = recipe.training.augment["image"]
    assert (augmentation.crop.scale, augmentation.crop.covers) == ((0.08, 1.0), 0.1)
    assert augmentation.crop.ratio == pytest.approx((3 / 4, 4 / 3))
    assert augmentation.flip == 0.5
    assert (augmentation.rand_augment.layers, augmentation.rand_augment.magnitude) == (4, 5)
    assert image.augments_whole(augmentation)
    assert recipe.model.outputs["label"].classes is None
    training = recipe.training
    assert (training.optimiser, training.eps, training.betas) == ("lamb", 1e-6, (0.9, 0.999))
    assert (training.clip, training.weight_decay, training.batch_size) == (10, 0.1, 1024)


@pytest.mark.parametrize("name", OF_IO)
def test_perceiver_io_trains_as_its_code_says(name):
    recipe = read_recipe(PAPER / f"{name}.yaml")
    training = recipe.training
    assert training.lr == 5e-4 * 1024 / 256
    assert (training.epochs, training.mix.mixup, training.mix.cutmix) == (110, 0.2, 1.0)
    assert recipe.model.outputs["label"].label_smoothing == 0.1
    factors = [lr_factor(step, 1000, training.schedule) for step in (0, 500, 750, 1000)]
    assert factors == pytest.approx([1, 1, 0.5, 0])


@pytest.mark.parametrize("name", OF_2021)
def test_perceiver_trains_as_its_paper_says(name):
    recipe = read_recipe(PAPER / f"{name}.yaml")
    assert (recipe.training.epochs, recipe.training.lr) == (120, 4e-3)
    assert (recipe.training.mix.mixup, recipe.training.mix.cutmix) == (0, 0)
    for epoch, factor in ((83, 1), (84, 0.1), (102, 0.01), (114, 0.001)):
        assert lr_factor(epoch * 10, 1200, recipe.training.schedule) == pytest.approx(factor)
    image = recipe.model.inputs["image"]
    assert (image.permute, image.permute_positions) == ((0, True) if name == "imagenet-permuted" else (None, False))


def test_a_step_of_lamb_by_hand():
    """Adam's update, then the decay of what is decayed, then the trust ratio of the sum, then the rate."""
    weight, gradient = torch.tensor([3.0, -4.0]), torch.tensor([0.5, 0.25])
    for decay in (0.1, 0.0):
        parameter = torch.nn.Parameter(weight.clone())
        optimiser = Lamb([parameter], lr=2e-3, eps=1e-6, weight_decay=decay)
        parameter.grad = gradient.clone()
        optimiser.step()
        # The first corrected moments are the gradient and its square.
        update = gradient / (gradient.abs() + 1e-6) + decay * weight
        wanted = weight - 2e-3 * 5 / update.norm() * update
        torch.testing.assert_close(parameter.detach(), wanted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The recipes with images of three classes, in ImageNet's layout, beside them."""
    folder = tmp_path_factory.mktemp("paper")
    for name in (*OF_IO, *OF_2021):
        shutil.copy(PAPER / f"{name}.yaml", folder)
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for colour, label in enumerate(CLASSES):
            (folder / "imagenet" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (48 + number, 60, 3), dtype=np.uint8)
                pixels[..., colour] += 100
                Image.fromarray(pixels).save(folder / "imagenet" / split / label / f"{label}_{number}.png")
    return folder


@pytest.mark.parametrize("name", [*OF_IO, *OF_2021])
def test_the_small_form_runs_from_files_to_an_answer(name, folder, tmp_path):
    run = perceivers.train(folder / f"{name}.yaml", overrides=small(name), out=tmp_path / "run", quiet=True)
    assert run.steps == 5
    result = perceivers.evaluate(run.run, quiet=True)
    assert (result["split"], result["samples"]) == ("test", 6)
    assert 0 <= result["scores"]["label"]["accuracy"] <= 1
    photo = next((folder / "imagenet" / "val" / CLASSES[1]).iterdir())
    (answer,) = perceivers.predict(perceivers.Predictor(run.model, top=2), photo)
    assert answer["label"] in CLASSES
    assert len(answer["label_probabilities"]) == 2
