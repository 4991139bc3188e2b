"""`reconstruction`: loss and score by hand, masked elements, patches, targets made of inputs, a run of training."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from perceivers.data.loader import collate
from perceivers.data.reader import Reader, Row
from perceivers.data.table import Table
from perceivers.errors import DataError
from perceivers.inputs.image import ImageInput
from perceivers.inputs.lift import Patches
from perceivers.inputs.position import NoPosition
from perceivers.inputs.series import SeriesInput
from perceivers.nn.stem import depth_to_space, space_to_depth
from perceivers.outputs.base import Sizes
from perceivers.outputs.reconstruction import ReconstructionOutput
from perceivers.training.evaluate import evaluate
from perceivers.training.run import train

WAVE = SeriesInput(rate=1, seconds=3, channels=2, mean=(1.0, 0.0), std=(2.0, 1.0), position=NoPosition())
AGAIN = ReconstructionOutput(input="wave")


def head(kind=WAVE):
    return AGAIN.build(Sizes(4, 4, False, {"wave": kind.build()}, {"wave": kind.raw_grid()}))


def test_loss_and_score_by_hand():
    module = head()
    target = torch.tensor([[[1.0, 0.0], [3.0, 1.0], [math.nan, math.nan]]])
    prediction = torch.tensor([[[0.5, 0.0], [1.0, 3.0], [9.0, 9.0]]])
    losses, known = module.loss(prediction, target)
    assert known.tolist() == [True]
    assert losses.item() == pytest.approx((0.5**2 + 0 + 0 + 2**2) / 4)
    metrics = module.metrics()
    module.measure(metrics, prediction, target)
    assert module.scores(metrics) == {"mse": pytest.approx(4.25 / 4)}
    assert AGAIN.headline == ("mse", "min")


def test_nothing_known():
    module = head()
    prediction = torch.zeros(2, 3, 2, requires_grad=True)
    losses, known = module.loss(prediction, torch.full((2, 3, 2), math.nan))
    assert known.tolist() == [False, False]
    losses.sum().backward()
    assert not prediction.grad.any()
    metrics = module.metrics()
    module.measure(metrics, prediction, torch.full((2, 3, 2), math.nan))
    assert not metrics["mse"].update_called


def test_targets_are_made_of_the_input():
    rows = [
        Row({"wave": WAVE.parse([[1, 2], [3, None], [5, 6]])}, {"again": None}),
        Row({"wave": None}, {"again": None}),
    ]
    batch = collate(rows, {"wave": WAVE}, {"again": AGAIN})
    wanted = [[[1, 2], [math.nan, math.nan], [5, 6]], [[math.nan] * 2] * 3]
    torch.testing.assert_close(batch.targets["again"], torch.tensor(wanted), equal_nan=True)
    absent = collate(rows[1:], {"wave": WAVE}, {"again": AGAIN})
    assert "wave" not in absent.inputs
    assert absent.targets["again"].isnan().all()


def test_bytes_of_an_image_stay_bytes():
    image = ImageInput(size=(2, 3), channels=1, mean=(10.0,), std=(5.0,), position=NoPosition())
    row = Row({"wave": image.parse(np.arange(6, dtype=np.uint8).reshape(2, 3))}, {"again": None})
    target = collate([row], {"wave": image}, {"again": AGAIN}).targets["again"]
    assert target.dtype == torch.uint8
    losses, _ = head(image).loss(torch.zeros(1, 6, 1), target)
    assert losses.item() == pytest.approx(np.mean(((np.arange(6) - 10) / 5) ** 2))


def test_patches():
    image = ImageInput(
        size=(4, 6), channels=2, mean=(1.0, 2.0), std=(2.0, 3.0), position=NoPosition(), lift=Patches(size=(2, 3))
    )
    assert image.plain_patch() == (2, 3)
    module = head(image)
    assert module.head.out_features == 12
    pixels = torch.arange(48.0).reshape(1, 24, 2)
    standardised = ((pixels - torch.tensor([1.0, 2.0])) / torch.tensor([2.0, 3.0])).reshape(1, 4, 6, 2)
    prediction = space_to_depth(standardised, (2, 3)).flatten(1, 2)
    losses, _ = module.loss(prediction, pixels)
    assert losses.item() == pytest.approx(0, abs=1e-10)
    (answer,) = module.answer("again", prediction, {})
    np.testing.assert_allclose(answer["again"], pixels.reshape(4, 6, 2), rtol=1e-5)
    assert module.flops({"wave": 4}) == 2 * 4 * 4 * 12


@pytest.mark.parametrize(("grid", "patch"), [((6,), (3,)), ((4, 6), (2, 3)), ((2, 4, 6), (1, 2, 3))])
def test_depth_to_space_undoes_space_to_depth(grid, patch):
    x = torch.rand(2, *grid, 3)
    assert torch.equal(depth_to_space(space_to_depth(x, patch), patch), x)


def test_it_reads_no_column():
    reader = Reader({"wave": WAVE}, {"again": AGAIN})
    table = Table({"wave": [[[1, 2], [3, 4], [5, 6]]]}, "toy")
    reader.check_columns(table)
    reader.check_apart()
    reader.check_targets(table, "train")
    assert reader.row(table, 0).targets == {"again": None}
    assert list(reader.present(table).outputs) == ["again"]
    assert not reader.present(Table({"other": [1]}, "toy")).outputs


def recipe(**changes):
    blocks = [{"groups": 2, "latents": 2, "channels": 8}, {"groups": 1, "latents": 4, "channels": 8}]
    return {
        "model": {
            "inputs": {"image": {"kind": "image", "size": [8, 8], "channels": 1}},
            "encoder": {"kind": "hierarchical", "embedding_channels": 8, "blocks": [*blocks, blocks[0]]},
            "outputs": {"label": {"kind": "category"}, "again": {"kind": "reconstruction", "input": "image"}},
        },
        "data": {"source": "digits"},
        "training": {"steps": 3, "batch_size": 16, "threads": 1, **changes},
    }


def test_training_and_evaluation(tmp_path: Path):
    changes = {
        "augment": {"image": {"kind": "image", "flip": 0.5}},
        "memory_budget": 1,
    }
    result = train(recipe(**changes), out=tmp_path / "run", quiet=True)
    assert result.steps == 3
    scores = evaluate(result.run, quiet=True)["scores"]
    assert 0.5 < scores["again"]["mse"] < 2
    assert 0 <= scores["label"]["accuracy"] <= 1


def test_a_column_for_it_is_refused(tmp_path: Path):
    data = recipe()
    data["data"]["columns"] = {"again": "label"}
    with pytest.raises(DataError, match="'again' has its target from input 'image'"):
        train(data, out=tmp_path / "run", quiet=True)
