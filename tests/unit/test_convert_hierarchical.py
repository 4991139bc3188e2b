"""Configs of the official hierarchical code as settings, and what is wrong with one that is not."""

from typing import Any

import numpy as np
import pytest
import torch

from perceivers.errors import ModelError, SpecError
from perceivers.models.convert.hierarchical import Autoencoder, from_official, published_of, to_official

HIP: dict[str, Any] = {
    "cls": "HiP",
    "modality_order": ["image", "audio"],
    "num_groups": [4, 1, 4],
    "z_index_dim": [3, 4, 3],
    "num_z_channels": [8, 16, 12],
    "num_self_attends_per_block": [1, 2, 0],
    "num_cross_attend_heads": [1, 1, 1],
    "num_self_attend_heads": [2, 4, 4],
    "cross_attend_widening_factor": [1, 1, 1],
    "self_attend_widening_factor": [4, 4, 2],
    "num_embedding_channels": 8,
}
IO: dict[str, Any] = {
    "cls": "PerceiverIO",
    "modality_order": ["image", "audio"],
    "z_index_dim": 6,
    "num_z_channels": 16,
    "num_self_attends_per_block": 2,
    "num_cross_attend_heads": 2,
    "num_self_attend_heads": 4,
    "cross_attend_widening_factor": 2,
    "self_attend_widening_factor": 2,
    "num_embedding_channels": 8,
}


def shapes(*labels: str) -> dict[str, tuple[int, int]]:
    found = {}
    for name, elements, channels in (("image", 23, 3), ("audio", 10, 5), ("label", 4, 2)):
        number = f"_{labels.index(name) + 1}" if name in labels else ""
        found[f"perceiver/position_encoder{number}/pos_emb_mae_{name}/pos_embs"] = (elements, 16 if number else 8)
        found[f"perceiver/embedder{number}/~embed/embed_{name}/w"] = (channels, 16 if number else 8)
    return found


def test_a_hierarchy():
    published = published_of(HIP, shapes())
    assert published.sizes == {"image": (23, 3), "audio": (10, 5)}
    assert [block.groups for block in published.spec.blocks] == [4, 1, 4]
    assert published.spec.centre.latents == 4
    assert published.spec.train_latents is None
    assert not published.spec.project_positions


def test_more_latents_in_evaluation_or_fewer_in_training():
    more = published_of({**HIP, "processor_index_dim_eval": 8}, shapes()).spec
    assert (more.centre.latents, more.train_latents) == (8, 4)
    fewer = published_of({**HIP, "z_index_dim": [3, 8, 3], "processor_index_dim_train": 4}, shapes()).spec
    assert (fewer.centre.latents, fewer.train_latents) == (8, 4)
    io = published_of({**IO, "z_index_dim_train": 2}, shapes()).spec
    assert (io.centre.latents, io.train_latents) == (6, 2)


def test_another_width_of_positions_is_a_linear():
    assert published_of({**HIP, "num_position_encoding_channels": 6}, shapes()).spec.project_positions
    assert not published_of({**HIP, "num_position_encoding_channels": 8}, shapes()).spec.project_positions


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        (HIP, ()),
        ({**HIP, "num_position_encoding_channels": 6, "regroup_type": "transpose_reshape"}, ()),
        ({**HIP, "cls": "HiPClassBottleneck", "label_modalities": ["label"]}, ("label",)),
        ({**HIP, "cls": "HiPClassBottleneck", "label_modalities": ["none_of_these"]}, ()),
        ({**IO, "num_position_encoding_channels": 8}, ()),
    ],
    ids=["hip", "transposed", "bottleneck", "bottleneck-without", "io"],
)
def test_parameters_there_and_back(config, labels):
    config = {**config, "modality_order": ["image", *labels, "audio"]}
    published = published_of(config, shapes(*labels))
    model = Autoencoder(published)
    official = to_official(model.state_dict(), published)
    again = from_official(official, published)
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    assert all(array.dtype == np.float32 for array in official.values())


def test_haikus_numbers_behind_names():
    projected = published_of({**HIP, "num_position_encoding_channels": 6}, shapes())
    names = to_official(Autoencoder(projected).state_dict(), projected)
    assert "perceiver/position_encoder/position_encoding_linear/w" in names
    assert "perceiver/position_encoder/position_encoding_linear_1/w" in names
    config = {**HIP, "cls": "HiPClassBottleneck", "label_modalities": ["label"], "modality_order": ["label", "image"]}
    labelled = published_of(config, shapes("label"))
    names = to_official(Autoencoder(labelled).state_dict(), labelled)
    assert names["perceiver/reconstruction_head/hi_p_cross_attention/layer_norm/scale"].shape == (8,)
    assert names["perceiver/reconstruction_head_1/hi_p_cross_attention/layer_norm_1/scale"].shape == (12,)
    assert "perceiver/perceiver_block_2/~/hi_p_cross_attention/pre_attention_residual_linear/w" in names


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cls": "HipHop"}, "unknown class of the hierarchical_perceiver code 'HipHop'"),
        ({"cls": None}, "unknown class"),
        ({"num_group": 3}, r"unknown setting of a hierarchical Perceiver 'num_group'\. Did you mean 'num_groups'"),
        ({"modality_order": None}, "modality_order is missing"),
        ({"modality_order": ["image", "image"]}, "no list of different names"),
        ({"modality_order": ["items"]}, "'items' in the config's modality_order cannot be the name of a modality"),
        ({"modality_order": ["image", "sound"]}, "pos_emb_mae_sound/pos_embs' with two axes"),
        ({"z_index_dim": [3, 4]}, "differ in length"),
        ({"num_self_attends_per_block": [1, 10**9, 1]}, "asks for 1000000002 self-attends"),
    ],
)
def test_a_config_that_is_none(change, said):
    with pytest.raises(ModelError, match=said):
        published_of({**HIP, **change}, shapes())


def test_a_config_that_lacks_something():
    with pytest.raises(ModelError, match="lacks z_index_dim, num_embedding_channels"):
        published_of({k: v for k, v in HIP.items() if k not in ("z_index_dim", "num_embedding_channels")}, shapes())
    with pytest.raises(ModelError, match="lacks num_groups"):
        published_of({k: v for k, v in HIP.items() if k != "num_groups"}, shapes())


def test_a_config_that_is_no_hierarchy():
    with pytest.raises(SpecError, match="block 1 is the centre and has one group, not 2"):
        published_of({**HIP, "num_groups": [4, 2, 4]}, shapes())
