"""Pairs whose images lie one behind the other [P2 Table 16]: elements, windows, masks, and flow that the first asks."""

import numpy as np
import pytest
import torch

import perceivers
from perceivers.elements import Elements
from perceivers.errors import SpecError
from perceivers.models.build import build
from perceivers.nn.attention import module
from perceivers.nn.stem import windows_around

SIZE = (6, 5)
GENERATOR = np.random.default_rng(0)
PAIR = [GENERATOR.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(2)]


def spec(**changes):
    pair = {"kind": "image_pair", "size": SIZE, "frames": "separate", "position": {"kind": "fourier", "bands": 2}}
    return {
        "inputs": {"pair": {**pair, **changes}},
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"flow": {"kind": "flow"}},
    }


@pytest.fixture
def model():
    made = build(spec(), seed=0).eval()
    torch.nn.init.normal_(made.outputs["flow"].head.weight)
    return made


def test_an_element_is_a_pixel_of_one_image(model):
    kind = model.spec.inputs["pair"]
    elements = kind.collate([kind.parse(PAIR), None])
    assert (elements.grid, tuple(elements.values.shape), kind.elements()) == ((2, *SIZE), (2, 60, 3), 60)
    for frame, image in enumerate(PAIR):
        np.testing.assert_array_equal(elements.values[0].unflatten(0, elements.grid)[frame], image)
    assert elements.mask[0].all()
    assert not elements.mask[1].any()


def test_windows_are_those_of_each_image(model):
    kind, lift = model.spec.inputs["pair"], model.inputs["pair"]
    content, _ = lift.content(kind.collate([kind.parse(PAIR)]))
    for frame, image in enumerate(PAIR):
        windows = windows_around((torch.from_numpy(image)[None] - 127.5) / 127.5, 3).flatten(1, 2)
        torch.testing.assert_close(content[:, frame * 30 : (frame + 1) * 30], lift.lift.linear(windows))


def test_a_pixel_that_is_masked_is_so_in_both(model):
    kind = model.spec.inputs["pair"]
    holed = [image.astype(np.float32) for image in PAIR]
    holed[0][2, 3] = np.nan
    mask = kind.collate([kind.parse(holed)]).mask[0].unflatten(0, (2, *SIZE))
    assert mask.sum() == 58
    assert not mask[:, 2, 3].any()


@pytest.mark.parametrize("by_tables", [True, False])
def test_the_first_frame_asks(model, monkeypatch, by_tables):
    monkeypatch.setattr(module, "asks_by_tables", lambda *_: by_tables)
    kind = model.double().spec.inputs["pair"]
    batch = model.collate([{"pair": PAIR}])
    flow = model(batch)["flow"]
    assert flow.shape == (1, *SIZE, 2)
    queries = model.inputs["pair"](batch.inputs["pair"]).joined()[:, : kind.elements() // 2]
    answers = model.decoder(queries, model.encode(batch))
    found = model.outputs["flow"].head(answers).unflatten(1, SIZE) * model.outputs["flow"].factor
    torch.testing.assert_close(flow, found, rtol=1e-12, atol=1e-12)


def test_tiles_are_read():
    tiled = build(spec(size=(24, 22)), seed=0).eval()
    images = [np.pad(image, ((0, 22), (0, 30), (0, 0))) for image in PAIR]
    assert perceivers.optical_flow(tiled, *images).shape == (28, 35, 2)


def test_it_learns(model):
    model(model.collate([{"pair": PAIR}]))["flow"].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_flow_is_between_two_frames():
    clip = {"kind": "video", "size": [3, 4, 4], "channels": 3, "mean": [0] * 3, "std": [1] * 3}
    changed = spec() | {"inputs": {"pair": {**clip, "position": {"kind": "fourier", "bands": 2}}}}
    with pytest.raises(SpecError, match="input 'pair' has 3 frames; flow is between 2"):
        build(changed)


def test_elements_of_another_grid_are_refused(model):
    with pytest.raises(ValueError, match="channels"):
        model.inputs["pair"](Elements(torch.zeros(1, 30, 6), grid=SIZE))
