"""The presets of P4: the official unit test's counts, published roundings, tiny twins that learn and are saved."""

import numpy as np
import pytest
import torch

from perceivers.models.build import build
from perceivers.models.build_hierarchical import build_hierarchical
from perceivers.models.plan import plan
from perceivers.models.presets import PRESETS
from perceivers.models.spec import Spec, as_spec
from perceivers.models.weights import load

NAMES = [name for name in sorted(PRESETS) if name.startswith("hip-")]
every_preset = pytest.mark.parametrize("name", NAMES)

# What the official unit test feeds: two data sets, (elements, channels) of each modality.
IMAGENET = {"imagenet_image": (1024, 3), "imagenet_label": (32, 1)}
AUDIOSET = {"audioset_audio": (128, 16), "audioset_label": (16, 16)}


def test_there_are_presets():
    assert len(NAMES) == 7


def numbers(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def counted(name: str, *labels: str) -> int:
    """The official test's count: a model is applied to both data sets, which share all that is not a modality's own.

    Its positions are to have 512 channels, which makes a linear for each modality but no wider array; data sets share
    the linears by name, so there are as many as one data set has modalities.
    """
    encoder = PRESETS[name].build_spec().encoder.with_changes(project_positions=True, central_inputs=labels)
    total = 0
    with torch.device("meta"):
        for sizes in (IMAGENET, AUDIOSET):
            spec = encoder.with_changes(central_inputs=tuple(label for label in labels if label in sizes))
            model = build_hierarchical(spec, sizes, sizes)
            unembed = 0
            for part in (model.modalities, model.central):
                for modality, module in part.items():
                    channels, width = sizes[modality][1], module.position.shape[1]
                    unembed += width * channels + channels
                    if total and module.projection is not None:
                        unembed -= numbers(module.projection)
            own = numbers(model.modalities) + numbers(model.central)
            total += unembed + (own if total else numbers(model))
    return total


@pytest.mark.parametrize(
    ("name", "labels", "count"),
    [
        ("hip-imagenet-16", (), 99_224_996),
        ("hip-imagenet-256", (), 95_585_188),
        ("hip-imagenet-mini", (), 18_709_668),
        ("hip-imagenet-mini", ("imagenet_label", "audioset_label"), 21_114_788),
    ],
)
def test_counts_of_the_official_unit_test(name, labels, count):
    assert counted(name, *labels) == count


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("hip-imagenet-16", 100.79),
        ("hip-imagenet-256", 96.37),
        ("hip-imagenet-16x3", 234.8),
        ("hip-imagenet-mini", 20.27),
    ],
)
def test_counts_on_an_image(name, millions):
    assert abs(PRESETS[name].parameters / 1e6 - millions) < 0.005


def tiny_twin(name: str) -> Spec:
    """The same levels with fewer groups, latents, channels and self-attends, on an image of 8 × 8 pixels."""
    data = PRESETS[name].build_spec().model_dump()
    data["inputs"]["image"] |= {"size": (8, 8), "mean": (100.0,) * 3, "std": (50.0,) * 3}
    data["encoder"]["embedding_channels"] = 16
    for block in data["encoder"]["blocks"]:
        block["groups"] = min(block["groups"], 16)
        block["latents"] = 16
        block["channels"] = 16 + block["channels"] // 64 * 16 % 48
        block["self_attends"] = min(block["self_attends"], 2)
        block["self_heads"] = min(block["self_heads"], 4)
        block["cross_heads"] = min(block["cross_heads"], 4)
    return as_spec(data)


def photographs(count: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [{"image": generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)} for _ in range(count)]


@every_preset
def test_every_parameter_of_a_tiny_twin_gets_a_gradient(name):
    model = build(tiny_twin(name), seed=0)
    head = model.outputs["reconstruction"]
    with torch.no_grad():
        # It starts at zero, and so does every gradient behind it.
        head.head.weight.normal_()
    batch = model.collate(photographs(2))
    losses, known = head.loss(model(batch)["reconstruction"], batch.inputs["image"].values)
    assert known.all()
    losses.mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # The softmax does not see what is the same for all keys: these biases' gradients are zero but for rounding.
        if not parameter_name.endswith("attention.key.bias"):
            assert parameter.grad.any(), parameter_name


@every_preset
def test_a_tiny_twin_is_saved_and_loaded(name, tmp_path):
    model = build(tiny_twin(name), seed=0).eval()
    with torch.no_grad():
        model.outputs["reconstruction"].head.weight.normal_()
    again = load(model.save(tmp_path / name))
    assert again.spec == model.spec
    with torch.no_grad():
        assert torch.equal(again(photographs(2))["reconstruction"], model(photographs(2))["reconstruction"])


@every_preset
def test_a_plan_counts_the_same_parameters(name):
    made = plan(PRESETS[name].build_spec())
    assert made.parameters == PRESETS[name].parameters
    assert made.flops > 2 * made.parameters
    assert len(made.layers) == len(PRESETS[name].spec["encoder"]["blocks"])


def test_a_budget_for_a_hierarchy():
    spec = PRESETS["hip-imagenet-16"].build_spec()
    free = plan(spec, batch=8).memory.training
    kept = plan(spec, batch=8, budget=free / 2)
    assert kept.recompute
    assert kept.memory.training < free
