"""The parts of a Hierarchical Perceiver: groups stay apart, skips, drawn latents, drop path, masks, first draws."""

import math

import pytest
import torch
from torch import nn

from perceivers.errors import DataError
from perceivers.models.build_hierarchical import build_hierarchical
from perceivers.models.spec_hierarchical import HierarchicalSpec
from perceivers.nn import MLP, CrossAttend, SelfAttend
from perceivers.nn.hierarchical import DropPath, GroupBlock, Hierarchical, Modality
from perceivers.nn.lifted import Lifted

SIZES = {"image": (23, 3), "audio": (10, 5)}
BLOCKS = [
    {"groups": 4, "latents": 3, "channels": 8, "self_heads": 2},
    {"groups": 1, "latents": 4, "channels": 16, "self_heads": 4, "self_attends": 2},
    {"groups": 4, "latents": 3, "channels": 12, "self_heads": 4},
]


def hierarchy(**settings: object) -> Hierarchical:
    torch.manual_seed(0)
    spec = HierarchicalSpec.model_validate({"blocks": BLOCKS, "embedding_channels": 8, **settings})
    return build_hierarchical(spec, SIZES, SIZES).eval()


def parts(batch: int = 2, seed: int = 0) -> dict[str, Lifted]:
    generator = torch.Generator().manual_seed(seed)
    return {name: Lifted(torch.randn(batch, *size, generator=generator)) for name, size in SIZES.items()}


def block(groups: int = 2, latents: int = 3, drawn: int | None = None, skip: nn.Linear | None = None) -> GroupBlock:
    torch.manual_seed(0)
    cross = CrossAttend(8, 6, mlp=MLP(8, activation="relu_squared"))
    return GroupBlock(groups, latents, cross, [SelfAttend(8, 2)], skip, drawn).eval()


@torch.no_grad()
def test_groups_do_not_see_each_other():
    module, x = block(), torch.randn(2, 2, 5, 6)
    one = module(x)
    x[:, 1] += 1
    other = module(x)
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.allclose(one[:, 1], other[:, 1])


@torch.no_grad()
def test_groups_share_weights_and_have_latents_of_their_own():
    module = block()
    x = torch.randn(1, 1, 5, 6).expand(1, 2, 5, 6)
    assert not torch.allclose(module(x)[:, 0], module(x)[:, 1])
    module.latents.copy_(module.latents[:3].repeat(2, 1))
    torch.testing.assert_close(module(x)[:, 0], module(x)[:, 1])
    assert (
        sum(p.numel() for p in module.parameters()) - module.latents.numel()
        == sum(p.numel() for p in block(groups=1).parameters()) - 3 * 8
    )


@torch.no_grad()
def test_a_residual_is_added_to_the_latents_before_they_read():
    module, x, residual = block(), torch.randn(2, 2, 5, 6), torch.randn(2, 2, 3, 8)
    given = module(x, residual)
    module.latents.add_(residual[0].flatten(0, 1))
    torch.testing.assert_close(given[0], module(x)[0])


@torch.no_grad()
def test_a_residual_of_other_channels_goes_through_a_linear():
    skip = nn.Linear(4, 8)
    module, x, residual = block(skip=skip), torch.randn(2, 2, 5, 6), torch.randn(2, 2, 3, 4)
    plain = block()
    torch.testing.assert_close(module(x, residual), plain(x, skip(residual)))


@torch.no_grad()
def test_some_latents_are_drawn_in_training_for_every_sample_and_group():
    module, x = block(groups=3, latents=6, drawn=4), torch.randn(5, 3, 7, 6)
    assert module(x).shape == (5, 3, 6, 8)
    module.train()
    assert module(x).shape == (5, 3, 4, 8)
    seen = []
    handle = module.cross_attend.register_forward_pre_hook(lambda _, given: seen.append(given[0].unflatten(0, (5, 3))))
    module(x)
    handle.remove()
    rows = module.latents.unflatten(0, (3, 6))
    chosen = [
        [tuple(int((rows[g] == latent).all(-1).nonzero()) for latent in seen[0][b, g]) for g in range(3)]
        for b in range(5)
    ]
    assert all(len(set(picked)) == 4 for sample in chosen for picked in sample), "none twice"
    assert len({picked for sample in chosen for picked in sample}) > 5, "not all alike"


def test_drop_path_leaves_out_whole_samples_and_scales_nothing():
    torch.manual_seed(0)
    drop = DropPath(0.4, groups=3)
    x = torch.ones(3 * 500, 2, 4)
    kept = drop(x).unflatten(0, (500, 3))
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(kept, kept[:, :1, :1, :1].expand_as(kept)), "all of a sample or nothing of it"
    assert 0.53 < kept.mean() < 0.67
    assert torch.equal(drop.eval()(x), x)


@torch.no_grad()
def test_skips_reach_behind_the_centre():
    """With a centre that says nothing, the last latents still depend on the inputs."""
    model = hierarchy()
    model.blocks[2].cross_attend.attention.output.weight.zero_()
    one, other = model(parts(), 2).final, model(parts(seed=1), 2).final
    assert not torch.allclose(one, other)


@torch.no_grad()
def test_again_asks_every_position():
    model = hierarchy()
    levels = model(parts(), 2)
    assert levels.centre.shape == (2, 4, 16)
    assert levels.final.shape == (2, 4, 3, 12)
    assert {name: tuple(model.again(levels, name).shape) for name in SIZES} == {
        "image": (2, 23, 8),
        "audio": (2, 10, 8),
    }


@torch.no_grad()
def test_each_sample_is_computed_alone():
    model, given = hierarchy(), parts(3)
    whole = model(given, 3)
    alone = model({name: Lifted(part.content[1:2]) for name, part in given.items()}, 1)
    for one, other in zip(whole, alone, strict=True):
        torch.testing.assert_close(one[1:2], other)


@pytest.mark.parametrize(
    "settings", [{}, {"blocks": [{"groups": 1, "latents": 6, "channels": 16}]}, {"central_inputs": ["audio"]}]
)
@torch.no_grad()
def test_masks(settings):
    model, given = hierarchy(**settings).double(), {n: Lifted(p.content.double()) for n, p in parts().items()}
    every = {n: Lifted(p.content, mask=torch.ones(p.content.shape[:2], dtype=torch.bool)) for n, p in given.items()}
    for one, other in zip(model(given, 2), model(every, 2), strict=True):
        torch.testing.assert_close(one, other)

    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, 3] = mask[1, 5:] = False
    spoiled = given["audio"].content.masked_fill(~mask[..., None], math.nan)
    some = [model({**given, "audio": Lifted(values, mask=mask)}, 2) for values in (given["audio"].content, spoiled)]
    for one, other in zip(*some, strict=True):
        assert torch.equal(one, other), "what a masked element holds changes nothing"
    assert not torch.allclose(some[0].centre, model(given, 2).centre)

    nothing = Lifted(given["audio"].content, mask=torch.zeros(2, 10, dtype=torch.bool))
    absent, masked = model({"image": given["image"]}, 2), model({**given, "audio": nothing}, 2)
    for one, other in zip(absent, masked, strict=True):
        assert torch.equal(one, other), "absent is masked whole"
    assert all(level.isfinite().all() for level in model({}, 2))


def test_another_number_of_elements():
    with pytest.raises(DataError, match="made for 23 elements, but the input has 22"):
        hierarchy()({"image": Lifted(torch.zeros(1, 22, 3))}, 1)


def test_first_draws():
    torch.manual_seed(0)
    modality = Modality(400, 30, 64, projected=True)
    assert math.isclose(modality.position.detach().std(), 1 / math.sqrt(400), rel_tol=0.05)
    assert math.isclose(modality.embed.weight.detach().std(), 1 / math.sqrt(30), rel_tol=0.05)
    assert modality.projection.bias is None
    assert math.isclose(modality.projection.weight.detach().std(), 1 / math.sqrt(64), rel_tol=0.05)
    latents = GroupBlock(8, 50, CrossAttend(64, 6), []).latents
    assert math.isclose(latents.detach().std(), 1 / math.sqrt(400), rel_tol=0.05)


def test_computing_again_gives_the_same_gradients():
    gradients = []
    for again in (False, True):
        model = hierarchy(drop_path=0.5, dropout=0.2).double().train()
        model.save_memory(flat=again, recompute=again)
        torch.manual_seed(1)
        model({n: Lifted(p.content.double()) for n, p in parts().items()}, 2).final.square().sum().backward()
        # Keys' biases change nothing, and without keys they have no gradient.
        named = {name: p.grad for name, p in model.named_parameters() if not name.endswith("attention.key.bias")}
        gradients.append({name: grad for name, grad in named.items() if grad is not None})
    torch.testing.assert_close(*gradients)
