"""Flow behind a convolution stem of each image, and RAFT's upsampling of the answers [P2 Table 16]."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import perceivers
from perceivers.errors import DataError, SpecError
from perceivers.models.plan import plan
from perceivers.models.presets import preset

SIZE = (16, 24)
GENERATOR = np.random.default_rng(0)
PAIR = [GENERATOR.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(2)]
STEM = {"kind": "conv", "channels": 5}


def spec(pair=None, flow=None):
    image_pair = {"kind": "image_pair", "size": SIZE, "lift": STEM, "position": {"kind": "fourier", "bands": 2}}
    return {
        "inputs": {"pair": {**image_pair, **(pair or {})}},
        "latents": {"count": 4, "channels": 16},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "outputs": {"flow": {"kind": "flow", "upsample": {"kind": "convex", "channels": 6}, **(flow or {})}},
    }


def model(**changes):
    made = perceivers.build(spec(**changes), seed=0).eval()
    # It starts at zero, and zero flow would show no fault.
    torch.nn.init.normal_(made.outputs["flow"].head.weight)
    return made


def content(made, pair):
    kind = made.spec.inputs["pair"]
    elements = kind.collate([kind.parse(pair)])
    assert kind.elements() == made.inputs["pair"](elements).joined().shape[1]
    return made.inputs["pair"].content(elements)


@pytest.mark.parametrize("frames", ["joined", "separate"])
def test_each_image_is_convolved_for_itself(frames):
    made = model(pair={"frames": frames})
    images = [(torch.from_numpy(image)[None] - 127.5) / 127.5 for image in PAIR]
    alone = [made.inputs["pair"].lift.stem(image).flatten(1, 2) for image in images]
    wanted = torch.cat(alone, dim=-1 if frames == "joined" else 1)
    found, mask = content(made, PAIR)
    assert mask is None
    torch.testing.assert_close(found, wanted)
    assert found.shape == ((1, 24, 10) if frames == "joined" else (1, 48, 5))


@pytest.mark.parametrize("frames", ["joined", "separate"])
def test_masked_pixels(frames):
    """A pixel that is masked is so in both images; an element is when all of its pixels are."""
    holed = [image.astype(np.float32) for image in PAIR]
    holed[1][:8, 4:8] = np.nan
    made = model(pair={"frames": frames})
    found, mask = content(made, holed)
    shown = mask.unflatten(1, (-1, 4, 6))
    assert not shown[:, :, :2, 1].any()
    assert int(shown.sum()) == mask.numel() - 2 * shown.shape[1]
    filled = [np.where(np.isnan(holed[1]), 99.0, image).astype(np.float32) for image in (PAIR[0], holed[1])]
    filled[0][0, 5] = np.nan
    holed[0][0, 5] = 17.0
    torch.testing.assert_close(content(made, holed)[0][mask], found[mask], msg="whatever the masked pixels hold")
    assert not torch.equal(content(made, filled)[0][mask], found[mask])


@pytest.mark.parametrize("frames", ["joined", "separate"])
def test_flow_is_of_each_pixel(frames):
    made = model(pair={"frames": frames}).double()
    batch = made.collate([{"pair": PAIR}])
    head = made.outputs["flow"]
    flow = made(batch)["flow"]
    assert flow.shape == (1, *SIZE, 2)
    queries = made.inputs["pair"](batch.inputs["pair"]).joined()[:, :24]
    answers = made.decoder(queries, made.encode(batch)).unflatten(1, (4, 6))
    wanted = head.upsample(head.head(answers) * head.factor, answers)
    torch.testing.assert_close(flow, wanted, rtol=1e-12, atol=1e-12)
    for chunk in (1, 7):
        parts = made.decode(made.encode(batch), batch=batch, chunk=chunk)["flow"]
        torch.testing.assert_close(parts, flow, rtol=1e-10, atol=1e-10)
    assert perceivers.optical_flow(made.float(), *(np.pad(i, ((0, 9), (0, 3), (0, 0))) for i in PAIR)).shape[:2] == (
        25,
        27,
    )


def test_a_training_step_counts_its_batch_once():
    made = model().train()
    made([{"pair": PAIR}])["flow"].square().mean().backward()
    assert int(made.inputs["pair"].lift.stem.norms[0].count) == 1
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.parameters())


def test_both_halves_are_the_whole():
    made = model()
    samples = [{"pair": PAIR}, {}]
    whole = made(samples)["flow"]
    torch.testing.assert_close(made.decode(made.encode(samples), batch=samples)["flow"], whole)
    assert whole.isfinite().all(), "an absent pair too"


def test_it_learns_a_shift(tmp_path):
    made = model().train()
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    samples, flows = [], []
    # One first image: only the second tells the shift.
    for shift in (-2, 0, 2, 1):
        samples.append({"pair": [image, np.roll(image, shift, axis=1)]})
        flows.append(np.full((*SIZE, 2), [shift, 0], np.float32))
    kind, head = made.spec.outputs["flow"], made.output_module("flow")
    target = kind.collate([kind.parse(flow) for flow in flows])
    optimiser = torch.optim.Adam(made.parameters(), 0.01)
    losses = []
    for _ in range(60):
        loss = head.loss(made(samples)["flow"], target)[0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    again = perceivers.load(made.eval().save(tmp_path / "model"))
    assert torch.equal(again(samples)["flow"], made(samples)["flow"])


def test_its_operations_are_those_of_torch():
    made = model()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head, answers = made.outputs["flow"], torch.zeros(1, 4, 6, made.outputs["flow"].head.in_features)
        head.upsample(head.head(answers), answers)
    assert head.flops({"pair": 24}) == counter.get_total_flops()
    parts = {part.name: part for part in plan(made.spec).parts}
    assert parts["output flow"].flops == head.flops({"pair": 24})
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        content(made, PAIR)
        content(model(pair={"frames": "separate"}), PAIR)
    # `content` lifts twice.
    assert 4 * parts["input pair"].flops == counter.get_total_flops()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flow": {"upsample": None}}, "has 16×24 pixels and 4×6 elements; set upsample: {kind: convex}"),
        ({"pair": {"lift": {"kind": "windows"}}}, "so there is nothing to upsample; leave upsample out"),
        ({"pair": {"size": [18, 24]}}, "give a size that the lift divides"),
        ({"pair": {"size": [28, 28], "lift": {**STEM, "stride": 4}}}, "and 4×4 elements, 8×8 apart"),
        ({"pair": {"size": [6, 6]}}, "and 2×2 elements, 4×4 apart"),
        ({"pair": {"size": [20, 20], "lift": {**STEM, "padding": "transformers"}}}, "and 4×4 elements, 4×4 apart"),
        ({"pair": {"lift": {"kind": "conv", "kernle": 3}}}, "kernle"),
        ({"pair": {"lift": {"kind": "patches", "size": [2, 2]}}}, "unknown kind 'patches'. Known: windows, conv"),
    ],
)
def test_what_does_not_fit(changes, said):
    with pytest.raises(SpecError) as caught:
        perceivers.build(spec(**changes), device="meta")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "points", "count": 9, "axes": 3}, "must lie on a grid of rows and columns"),
        ({"kind": "points", "count": 9, "axes": 2}, "must lie on a grid of rows and columns"),
        (
            {
                "kind": "audio",
                "samples": 64,
                "rate": 100,
                "lift": {"kind": "log_mel", "window": 8, "hop": 8, "bins": 4},
            },
            "must lie on a grid of rows and columns",
        ),
        (
            {"kind": "video", "size": [2, 16, 16], "lift": {"kind": "patches", "size": [2, 4, 4]}},
            "the elements of input 'pair' mix its frames",
        ),
        ({"kind": "video", "size": [3, 16, 16]}, "has 3 frames; flow is between 2"),
    ],
)
def test_what_is_no_pair(given, said):
    statistics = {"mean": [0] * 3, "std": [1] * 3} if given["kind"] == "video" else {"mean": [0], "std": [1]}
    statistics = {} if given["kind"] == "points" else statistics
    with pytest.raises(SpecError, match=said):
        perceivers.build({**spec(), "inputs": {"pair": {**given, **statistics}}}, device="meta")


def test_parts_that_do_not_fit_are_told_of_before_data_is_read(tmp_path):
    recipe = {"model": spec(flow={"upsample": None}), "data": {"source": "gone.csv"}, "training": {"steps": 1}}
    with pytest.raises(SpecError, match="set upsample"):
        perceivers.train(recipe, out=tmp_path / "run", base=tmp_path, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_target_of_the_elements_is_refused():
    made = model()
    kind = made.spec.outputs["flow"]
    coarse = kind.collate([np.zeros((4, 6, 2), np.float32)])
    with pytest.raises(DataError, match="the target flow is 4×6, but the model answers 16×24"):
        made.output_module("flow").loss(made([{"pair": PAIR}])["flow"], coarse)


@pytest.mark.parametrize("name", ["perceiver-io-flow-conv", "perceiver-io-flow-conv-small"])
def test_the_presets_read_a_sixteenth_of_the_pixels(name):
    made = plan(name)
    assert made.elements == {"pair": 92 * 124}
    assert made.channels == 2 * 64 + 2 + 4 * 64
    small = name.endswith("small")
    assert made.latents == ((1024 if small else 2048), 512)
    assert preset(name).build_spec().encoder.layers == (16 if small else 24)
