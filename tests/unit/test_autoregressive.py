"""Perceiver AR: who reads what, options, the model around it."""

import pytest
import torch
from tokens_model import model, spec

from perceivers.elements import Batch
from perceivers.errors import DataError, SpecError
from perceivers.live import LiveEncoder
from perceivers.models.build import build
from perceivers.models.plan import plan
from perceivers.models.weights import load
from perceivers.nn.tokens import latent_places, positions_from_end, raster_positions

# Sums of float32 in another order.
FP32_SUM = {"rtol": 1e-5, "atol": 1e-5}

OPTIONS = {
    "usual": {},
    "rotary": {"tokens": {"position": {"kind": "rotary"}}},
    "rotary from the end": {"tokens": {"position": {"kind": "rotary", "count": "negative_end", "fraction": 0.25}}},
    "fourier from the end": {"tokens": {"position": {"kind": "absolute", "code": "fourier", "count": "end"}}},
    "learned positions": {"tokens": {"position": {"kind": "absolute", "code": "random", "learnable": True}}},
    "mlp query": {"encoder": {"query": {"style": "mlp", "layers": 3}}},
    "learned queries": {"encoder": {"query": {"style": "learned"}}},
    "one learned query": {"encoder": {"query": {"style": "learned", "shared": True}}},
    "two latents on a token": {"encoder": {"query": {"per_token": 2}}},
    "ahead": {"tokens": {"position": {"kind": "rotary"}}, "encoder": {"query": {"ahead": True}}},
    "more reads": {"encoder": {"cross": {"after": [0, 1], "query_residual": False}}},
    "no first read": {"encoder": {"cross": {"first": False}, "activation": "gelu_tanh"}},
    "wide queries": {"tokens": {"channels": 12}, "encoder": {"cross": {"heads": 2, "qk_channels": 16}}},
}
every_option = pytest.mark.parametrize("changes", [dict(c) for c in OPTIONS.values()], ids=list(OPTIONS))


@every_option
@torch.no_grad()
def test_no_latent_sees_what_comes_later(changes):
    made = model(**changes)
    count = 4 // made.encoder.query.per_position
    whole = made([{"text": "abcdefgh"}])["next"]
    assert whole.shape == (1, count, 259)
    last = made([{"text": "abcdefgX"}])["next"]
    torch.testing.assert_close(last[:, :-1], whole[:, :-1], **FP32_SUM)
    assert not torch.allclose(last[:, -1], whole[:, -1])


@every_option
@torch.no_grad()
def test_a_sample_is_the_same_beside_longer_ones(changes):
    made = model(**changes)
    together = made([{"text": "abcdefgh"}, {"text": "abc"}, {"text": "ab"}])["next"]
    for row, text in enumerate(("abcdefgh", "abc", "ab")):
        alone = made([{"text": text}])["next"][0]
        real = min(len(text) + 1, alone.shape[0])
        torch.testing.assert_close(together[row, -real:], alone[-real:], **FP32_SUM)


@every_option
def test_every_parameter_learns(changes):
    made = model(**changes).train()
    batch = made.collate([{"text": "abcdefgh"}, {"text": "hgfedcbahgfed"}])
    losses, known = made.outputs["next"].loss(made(batch)["next"], target(made, ["abcdefgh", "hgfedcbahgfed"]))
    assert known.all()
    losses.sum().backward()
    for name, parameter in made.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            if not name.endswith("attention.key.bias"):
                assert parameter.grad.any(), name


def target(made, texts):
    kind = made.spec.outputs["next"]
    return kind.collate([kind.following(kind.parse(text), len(text) + 1) for text in texts])


def test_the_loss_is_the_sum_over_the_last_tokens_in_nats():
    made = build(spec(), seed=0)  # the head starts at zero: every token is as likely
    losses, known = made.outputs["next"].loss(
        made([{"text": "abcdefgh"}, {"text": "a"}, {}])["next"], target(made, ["abcdefgh", "a"])[[0, 1, 1]] * _rows()
    )
    nats = torch.tensor(259.0).log()
    assert known.tolist() == [True, True, False]
    torch.testing.assert_close(losses, nats * torch.tensor([4.0, 2.0, 0.0]))


def _rows():
    return torch.tensor([1, 1, 0])[:, None]


@torch.no_grad()
def test_encode_and_decode_are_the_two_halves():
    made = model()
    samples = [{"text": "abc"}, {"text": "abcdefgh"}]
    latents = made.encode(samples)
    assert latents.shape == (2, 4, 16)
    assert torch.equal(made.decode(latents)["next"], made(samples)["next"])
    with pytest.raises(DataError, match=r"decode wants latents \(B, 4, 16\)"):
        made.decode(latents[:, :2])


@torch.no_grad()
def test_nothing_to_read_is_finite_and_changes_nobody():
    made = model()
    found = made([{"text": "abc"}, {"text": None}])["next"]
    assert found.isfinite().all()
    torch.testing.assert_close(found[:1], made([{"text": "abc"}])["next"], **FP32_SUM)
    assert made(Batch({}, 2))["next"].isfinite().all()


@torch.no_grad()
def test_saved_and_loaded(tmp_path):
    made = model(tokens={"position": {"kind": "absolute"}})
    again = load(made.save(tmp_path / "model"))
    assert again.spec == made.spec
    assert not again.inputs["text"].embedding.tables[0].requires_grad
    assert torch.equal(again([{"text": "abc"}])["next"], made([{"text": "abc"}])["next"])


def test_dropped_tokens_and_latents_are_dropped_in_training_alone():
    made = model(encoder={"token_dropout": 0.5, "latent_dropout": 0.5})
    one, other = (made([{"text": "abcdefgh"}])["next"] for _ in range(2))
    assert torch.equal(one, other)
    made.train()
    one, other = (made([{"text": "abcdefgh"}])["next"] for _ in range(2))
    assert not torch.equal(one, other)
    assert one.isfinite().all()


def test_places_and_positions():
    assert latent_places(torch.tensor([5, 2, 0]), 3).tolist() == [[2, 3, 4], [-1, 0, 1], [-1, -1, -1]]
    present = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert positions_from_end(present).tolist() == [[2, 1, 0, 3], [3, 2, 1, 0]]
    assert raster_positions((2, 2, 3), 8, torch.device("cpu")).tolist() == [
        [1, 1, 1],
        *([2, 2, c] for c in (2, 3, 4)),
        *([3, 2, c] for c in (2, 3, 4)),
        [2, 3, 2],
    ]


@torch.no_grad()
def test_an_image_has_three_positions():
    sizes = {"kind": "absolute", "code": "random", "sizes": [6, 6, 5], "learnable": True}
    made = model(tokens={"length": 49, "image": [4, 4, 3], "position": sizes}, output={"end": False})
    pixels = torch.arange(48, dtype=torch.uint8).reshape(4, 4, 3).numpy()
    assert made([{"text": pixels}])["next"].shape == (1, 4, 259)
    positions = made.core.embedding.positions(torch.ones(1, 49, dtype=torch.bool))[0]
    assert len({tuple(p) for p in positions.tolist()}) == 49


def test_what_makes_no_sense_for_it():
    made = model()
    with pytest.raises(SpecError, match=r"a live input needs encoder\.kind: perceiver"):
        LiveEncoder(made, "text")
    with pytest.raises(SpecError, match="in one process; leave group out"):
        made.encode([{"text": "a"}], group=object())
    with pytest.raises(DataError, match="unknown input 'txt'"):
        made([{"txt": "a"}])


def test_a_plan_counts_all_parameters_and_flops():
    data = spec(encoder={"cross": {"after": [1]}, "query": {"style": "mlp"}})
    made = plan(data, batch=3)
    assert made.parameters == sum(p.numel() for p in build(data, device="meta").parameters())
    assert made.memory.training > made.memory.inference > 0
    linears = {"query": 3 * 4 * 16 * 16, "head": 4 * 16 * 259}
    cross = 4 * 16 * 16 + 2 * 24 * 16 * 16 + 4 * 16 * 16 + 2 * 4 * 24 * 16 + 2 * 4 * 16 * 64
    own = 4 * 4 * 16 * 16 + 2 * 4 * 4 * 16 + 2 * 4 * 16 * 64
    assert made.flops == 2 * (sum(linears.values()) + 2 * cross + 2 * own)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": {"a": {"kind": "text"}}}, r"inputs\.a\.kind must be tokens"),
        ({"outputs": {"a": {"kind": "category"}}}, r"outputs\.a\.kind must be next_token"),
        ({"outputs": {n: {"kind": "next_token"} for n in "ab"}}, "continues one input and has one output, not 1 and 2"),
        ({"encoder": {"kind": "perceiver"}}, r"inputs\.text, of kind tokens, needs encoder\.kind: autoregressive"),
        ({"decoder": {"kind": "average"}}, "has no decoder and no learned latents"),
        ({"output": {"vocabulary": 300}}, r"outputs\.next\.vocabulary is 300, and that of inputs\.text is 259"),
        ({"encoder": {"self_attend": {"heads": 3}}}, r"encoder\.self_attend\.heads is 3, which does not divide 16"),
        ({"encoder": {"cross": {"after": [2]}}}, r"cross\.after is \[2\]; name each of the self-attends 0 to 1 once"),
        ({"encoder": {"query": {"per_token": 3}}}, r"latents\.count = 4 is no multiple"),
        ({"encoder": {"query": {"layers": 3}}}, "layers is of style: mlp, and the style is token"),
        ({"encoder": {"query": {"style": "learned", "per_token": 2}}}, "learned queries have one latent on a token"),
        ({"encoder": {"layer": 3}}, r"encoder\.layer: unknown key\. Did you mean 'layers'"),
        ({"encoder": {"query": {"stile": "mlp"}}}, r"encoder\.query\.stile: unknown key\. Did you mean 'style'"),
        ({"encoder": {"kind": "autoregresive"}}, r"unknown kind 'autoregresive'\. Did you mean 'autoregressive'"),
        ({"tokens": {"position": {"kind": "rotary", "longest": 10}}}, r"position\.longest = 10 is less than length"),
        ({"tokens": {"channels": 15}}, "make channels even"),
        ({"tokens": {"vocabulary": 100}}, "bytes need a vocabulary of 259 at least"),
        ({"tokens": {"image": [4, 4, 3]}}, r"needs position\.kind: absolute with sizes: \[6, 6, 5\]"),
        ({"tokens": {"nan": "error"}}, "tokens have no NaN to stop at"),
    ],
)
def test_specs_that_cannot_be(changes, said):
    with pytest.raises(SpecError, match=said):
        build(spec(**changes))


def test_latents_ahead_need_rotary_positions():
    with pytest.raises(SpecError, match=r"encoder\.query\.ahead moves positions that are rotary"):
        build(spec(encoder={"query": {"ahead": True}}))
