"""Recordings of greedy sampling (`ar_generate_*`), made here: a loop of whole runs of the model, without a cache.

With a cache every latent keeps what it computed, and reads the latents before it since the cache was last filled. So a
token behind a memory of f latents is what the whole model predicts with f latents.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_recordings import LAYOUTS, drawn_parameters, shapes, write

from perceivers.models.autoregressive import AutoregressiveModel
from perceivers.models.convert import compare, official
from perceivers.models.convert.autoregressive import spec_of_config

NAMES = ("ar_generate_absolute", "ar_generate_rotary")


def model_of(name: str, tmp_path: Path) -> tuple[AutoregressiveModel, dict[str, np.ndarray]]:
    parameters = drawn_parameters(shapes(name))
    np.savez(tmp_path / "parameters.npz", **parameters)
    model = official(tmp_path / "parameters.npz", spec_of_config(LAYOUTS[name]["config"]))
    assert isinstance(model, AutoregressiveModel)
    return model, parameters


@torch.no_grad()
def greedy(model: AutoregressiveModel, start: torch.Tensor, positions: torch.Tensor, latents: list[int]) -> np.ndarray:
    """The beginning (B, n), and one token behind it a number of latents: the likeliest."""
    events = start
    for count in latents:
        read = positions[:, : events.shape[1]]
        embedded = model.core.embedding(events, read)
        last, _ = model.core.encoder(embedded, count)
        logits = model.core.head(last)[:, -1]
        events = torch.cat([events, logits.argmax(-1, keepdim=True)], dim=1)
    return events.int().numpy()


def made(name: str, tmp_path: Path) -> dict[str, np.ndarray]:
    config = LAYOUTS[name]["config"]
    model, parameters = model_of(name, tmp_path)
    total, begun, full = shapes(name, "input/")["input/events"][1], config["start"], config["z_index_dim"]
    events = np.random.default_rng(5).integers(3, config["vocab"], (1, total)).astype(np.int32)
    places = np.arange(1, total + 1, dtype=np.int32)[None, :, None]
    # One latent with the beginning, one more a token, and half as many as there is room for where there is no more.
    memory = [1]
    while len(memory) < total - begun:
        memory.append(memory[-1] + 1 if memory[-1] < full else full // 2)
    assert memory == config["self_memory_fill_after_each_step"]
    start, positions = torch.from_numpy(events[:, :begun]).long(), torch.from_numpy(places).long()
    return {
        **parameters,
        "input/events": events,
        "input/event_idxs": places,
        "output/events_cached": greedy(model, start, positions, memory),
        "output/events_uncached": greedy(model, start, positions, [full] * len(memory)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_same_tokens(name, tmp_path):
    arrays = made(name, tmp_path)
    cached, uncached = (arrays[f"output/events_{kind}"] for kind in ("cached", "uncached"))
    assert not np.array_equal(cached, uncached), "a cache that forgets changes what comes"
    assert len(set(cached[0, 5:].tolist())) > 4, "not the same token again and again"
    found = compare(write(tmp_path / "made.npz", name, arrays))
    assert set(found) == {"events_cached", "events_uncached"}
    assert {key: c.absolute for key, c in found.items()} == {"events_cached": 0.0, "events_uncached": 0.0}


@pytest.mark.parametrize("output", ["events_cached", "events_uncached"])
def test_another_token_is_found_out(output, tmp_path):
    arrays = made("ar_generate_rotary", tmp_path)
    arrays[f"output/{output}"][0, -1] += 1
    found = compare(write(tmp_path / "made.npz", "ar_generate_rotary", arrays))
    assert [key for key, c in found.items() if not c.within] == [output]


def test_the_note_says_what_is_done_here():
    note = LAYOUTS["ar_generate_rotary"]["config"]["note"]
    assert "first step all_previous (one latent)" in note
    assert "reset to half-full when memory full" in note
