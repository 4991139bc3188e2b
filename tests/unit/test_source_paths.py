"""A source by every path against the whole input by keys and values: answers and the gradients of all weights."""

import sys

import numpy as np
import pytest
import torch
import toys

from perceivers import Source, build
from perceivers.nn.attention import planner
from perceivers.nn.attention import read as reading

FOURIER = {"kind": "fourier", "bands": 3}
IMAGE = {"kind": "image", "size": [20, 12], "channels": 2, "mean": [0.2, 0.1], "std": [2, 1]}
INPUTS = {
    "fourier": {**IMAGE, "position": FOURIER},
    "patches": {**IMAGE, "position": FOURIER, "lift": {"kind": "patches", "size": [4, 3], "channels": 6}},
    "learned": {**IMAGE, "position": {"kind": "learned", "channels": 7}},
    "video": {
        **IMAGE,
        "kind": "video",
        "size": [20, 3, 4],
        "position": FOURIER,
        "lift": {"kind": "patches", "size": [4, 1, 2], "channels": 6},
    },
    "pixels of video": {**IMAGE, "kind": "video", "size": [20, 4, 6], "lift": {"kind": "pixels", "stride": [3, 1, 2]}},
    "regular": {"kind": "series", "channels": 2, "seconds": 10, "rate": 15, "mean": [0, 0], "std": [1, 1]},
}
FACTS = {"kind": "number", "columns": ["a", "b"], "channels": 8, "mean": [0, 0], "std": [1, 1]}
# Those whose position is tables of two axes or more; of others the planner has two paths.
TABLES = ("fourier", "patches", "video", "pixels of video")
CASES = [(name, path) for name in INPUTS for path in ("absorbed", "projected")]
CASES += [(name, "factorised") for name in TABLES]


def a_model(scene, dtype):
    spec = {
        # Two inputs: the fusion's embedding of each is among what has a gradient.
        "inputs": {"scene": scene, "facts": FACTS},
        "latents": {"count": 5, "channels": 16},
        "encoder": {
            "cross_attends": 2,
            "layers": 1,
            "self_attend": {"heads": 2},
            "cross": {"heads": 2, "qk_channels": 24},
        },
        "outputs": {"label": {"kind": "category", "classes": ["x", "y"]}},
    }
    return build(spec, seed=0).to(dtype)


def found(model, value):
    model.zero_grad()
    answer = model([{"scene": value, "facts": [1.0, 2.0]}])["label"]
    answer.square().sum().backward()
    # The key's bias shifts all scores alike: its gradient is zero but for rounding.
    names = [n for n, _ in model.named_parameters() if not n.endswith("attention.key.bias")]
    gradients = dict(model.named_parameters())
    return answer.detach(), [gradients[name].grad.clone() for name in names]


def apart(one, other):
    """The largest difference of answers, and of gradients, each of the largest there is."""
    answers = float((one[0].double() - other[0]).abs().max() / other[0].abs().max())
    largest = max(float(g.abs().max()) for g in other[1])
    return answers, max(float((a.double() - b).abs().max()) for a, b in zip(one[1], other[1], strict=True)) / largest


@pytest.mark.parametrize(("name", "path"), CASES)
def test_a_source_by_each_path(monkeypatch, name, path):
    exact, single = a_model(INPUTS[name], torch.float64), a_model(INPUTS[name], torch.float32)
    shape = INPUTS[name].get("size", [150])
    values = np.random.default_rng(3).normal(size=(*shape, 2)).astype(np.float32)
    values[3, ..., 0], values[7] = np.nan, np.inf
    with monkeypatch.context() as patch:
        patch.setattr(planner, "FEWEST_ELEMENTS", sys.maxsize)
        wanted, plain = found(exact, values), found(single, values)
    toys.make_cheap(monkeypatch, path)
    taken = []
    part_state = reading.part_state
    monkeypatch.setattr(reading, "part_state", lambda *a: taken.append(a[2]) or part_state(*a))
    source = lambda: Source.of(values, run_rows=7)  # noqa: E731
    assert max(apart(found(exact, source()), wanted)) <= 1e-12
    # Gradients are sums that cancel: the plain path, too, is off by more than single answers are.
    answer, gradient = apart(found(single, source()), wanted)
    assert answer <= 2e-6
    assert gradient <= max(2e-6, 2 * apart(plain, wanted)[1])
    assert path in taken
