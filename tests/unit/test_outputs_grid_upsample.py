"""`grid` with `upsample`: up-convolutions behind the answers of a coarser grid."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import perceivers
from perceivers.errors import DataError, SpecError
from perceivers.models.plan import plan

PICTURE = {"kind": "grid", "size": [8, 12], "channels": 3, "upsample": [2, 2], "query": {"bands": 2}}
FILM = {"kind": "grid", "size": [4, 8, 8], "channels": 2, "upsample": [1, 2, 2], "query": {"bands": 2}}


def model(output, decoder=None):
    spec = {
        "inputs": {"two": {"kind": "number", "columns": ["a", "b"], "mean": [0, 0], "std": [1, 1]}},
        "latents": {"count": 4, "channels": 8},
        "encoder": {"layers": 1, "self_attend": {"heads": 2}},
        "decoder": {"kind": "cross_attend", **(decoder or {})},
        "outputs": {"again": output},
    }
    return perceivers.build(spec, seed=0).eval()


@pytest.mark.parametrize(("output", "cells"), [(PICTURE, 6), (FILM, 8)])
def test_a_coarser_grid_is_asked_and_made_finer(output, cells):
    made = model(output)
    head = made.output_module("again")
    latents = made.encode({"two": [1.0, 2.0]})
    found = made.decode(latents)["again"]
    assert found.shape == (1, *output["size"], output["channels"])
    asked = head.queries(made.contexts(["again"], latents, None, {})["again"])
    assert asked.content.shape[1] == cells == head.count({})
    answers = made.decoder(asked, latents).unflatten(1, head.grid)
    torch.testing.assert_close(head.head(answers), found)
    with torch.no_grad():
        for chunk in (1, 4):
            torch.testing.assert_close(made.decode(latents, chunk=chunk)["again"], found, rtol=1e-5, atol=1e-6)


def test_it_learns():
    made = model(PICTURE).train()
    target = torch.rand(2, 8, 12, 3)
    optimiser = torch.optim.Adam(made.parameters(), 0.01)
    losses = []
    for _ in range(150):
        prediction = made([{"two": [0.0, 1.0]}, {"two": [1.0, -1.0]}])["again"]
        loss = made.output_module("again").loss(prediction, target)[0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert losses[-1] < 0.3 * losses[0]


def test_its_operations_are_those_of_torch():
    head = model(PICTURE).output_module("again")
    with FlopCounterMode(display=False) as counter:
        head.head(torch.zeros(1, 2, 3, head.head.layers[0].in_channels))
    assert head.flops({}) == counter.get_total_flops()
    assert plan(model(PICTURE).spec).flops > head.flops({})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"upsample": [1, 2]}, r"two axes are doubled twice, upsample: \[2, 2\], not \[1, 2\]"),
        ({"upsample": [2]}, "upsample has 1 numbers for the 2 axes"),
        ({"size": [8, 10]}, r"\(8, 10\) cannot be doubled \[2, 2\] times"),
        ({"patch": [2, 2]}, "cannot be had with patch"),
        ({"sampled": 3}, "cannot be had with sampled"),
        ({"size": [8], "upsample": [2]}, r"upsample is \[2, 2\] of height and width"),
        ({"size": [4, 8, 8], "upsample": [1, 1, 2]}, r"\[time, space, space\] of a video"),
        ({"size": [4, 8, 8], "upsample": [0, 0, 0]}, "not all 0"),
    ],
)
def test_what_cannot_be_doubled(changed, message):
    with pytest.raises(SpecError, match=message):
        model({**PICTURE, **changed})


def test_no_cell_can_be_asked_for_alone():
    made = model(PICTURE)
    latents = made.encode({"two": [1.0, 2.0]})
    with pytest.raises(DataError, match="unknown output whose points can be asked for 'again'"):
        made.decode(latents, points={"again": [0]})


def test_saved_loaded_and_answered(tmp_path):
    made = model(PICTURE)
    again = perceivers.load(made.save(tmp_path / "model"))
    sample = {"two": [1.0, 2.0]}
    answers = [perceivers.Predictor(one)(sample)["again"] for one in (made, again)]
    assert answers[0].shape == (8, 12, 3)
    assert np.array_equal(*answers)
