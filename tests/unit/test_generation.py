"""Generation: drawing, caches and the way without, prompts."""

import pytest
import torch
from tokens_model import model

from perceivers.errors import DataError, SpecError
from perceivers.nn.generation import CachedSteps, Sampling, allowed, drawn, generate
from perceivers.nn.kv_cache import Memory
from perceivers.tokens import EOS, PAD, SOS

FP32_SUM = {"rtol": 1e-5, "atol": 1e-5}
GREEDY = Sampling(temperature=0)
ROTARY = {"tokens": {"position": {"kind": "rotary"}}}


def tokens(*ids):
    return torch.tensor([[SOS, *ids]])


class TestDrawing:
    LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).log_softmax(-1)

    def left(self, **changes):
        return (allowed(self.LOGITS, Sampling(**changes)) > -1e29).nonzero()[:, 1].tolist()

    def test_what_is_left(self):
        assert self.left() == [0, 1, 2, 3]
        assert self.left(top_k=2) == [1, 3]
        assert self.left(top_k=9) == [0, 1, 2, 3]
        assert self.left(top_p=0.5) == [1]
        assert self.left(top_p=0.7) == [1, 3]
        assert self.left(never=(1,)) == [0, 2, 3]
        assert self.left(never=(1,), top_k=1) == [3]

    def test_the_likeliest_and_draws(self):
        many = self.LOGITS.expand(4000, -1)
        assert drawn(many, GREEDY).unique().tolist() == [1]
        generator = torch.Generator().manual_seed(0)
        shares = drawn(many, Sampling(), generator).bincount() / 4000
        torch.testing.assert_close(shares, self.LOGITS[0].exp(), rtol=0, atol=0.03)
        cold = drawn(many, Sampling(temperature=0.1), generator).bincount(minlength=4)
        assert cold[1] > 3990

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"temperature": -1.0}, "temperature is -1.0; it is at least 0"),
            ({"top_k": 0}, "top_k is 0; at least one token must be left"),
            ({"top_p": 0.0}, "top_p is 0.0; it is a share above 0"),
        ],
    )
    def test_settings_that_cannot_be(self, settings, said):
        with pytest.raises(SpecError, match=said):
            Sampling(**settings)


class TestMemory:
    def test_the_oldest_are_overwritten(self):
        memory = Memory(1, 3, 1, 1, torch.zeros(()))
        numbers = torch.arange(10.0)[None, :, None]
        keys, values = memory.added(numbers[:, :2], -numbers[:, :2])
        assert (keys.flatten().tolist(), values.flatten().tolist(), memory.full) == ([0, 1], [0, -1], False)
        assert memory.in_order()[0].flatten().tolist() == [0, 0, 1]
        assert memory.in_order()[2].tolist() == [False, True, True]
        keys, _ = memory.added(numbers[:, 2:4], numbers[:, 2:4])
        assert sorted(keys.flatten().tolist()) == [1, 2, 3]
        assert memory.in_order()[0].flatten().tolist() == [1, 2, 3]
        assert memory.full
        memory.clear()
        assert memory.added(numbers[:, 7:8], numbers[:, 7:8])[0].flatten().tolist() == [7]


@pytest.mark.parametrize("changes", [{}, ROTARY, {"encoder": {"cross": {"after": [0], "first": False}}}])
@torch.no_grad()
def test_a_cache_with_as_many_latents_as_in_training_is_exact(changes):
    made = model(4, **changes).core
    ids = torch.tensor([[SOS, *range(10, 20)]])
    steps = CachedSteps(made, 1, 24)
    logits = [steps.prefill(ids[:, :5])] + [steps.step(ids[:, :end]) for end in range(6, 9)]
    assert steps.memories.full
    torch.testing.assert_close(logits[-1], made(ids[:, :8])[:, -1], **FP32_SUM)
    torch.testing.assert_close(steps.next(ids[:, :9]), made(ids[:, :9], latents=2)[:, -1], **FP32_SUM)
    assert len(steps.memories.own[0]) == 2, "filled to the half anew"


def test_without_a_cache_every_token_is_that_of_the_whole_model():
    made = model().core
    found = generate(made, tokens(5, 6, 7), 6, GREEDY, cache=False)
    for end in range(4, 10):
        assert found[0, end] == made(found[:, :end])[0, -1].argmax()


def test_seeds():
    made = model()
    one, same, other = (made.generate(["ab"], 12, seed=seed)[0] for seed in (1, 1, 2))
    assert one == same != other
    assert made.generate(["ab"], 12, Sampling(top_k=1), seed=5) == made.generate(["ab"], 12, GREEDY)


def test_prompts_of_different_lengths_go_on_each_for_itself():
    made = model()
    prompts = ["abcdefgh", "a", ""]
    together = made.generate(prompts, 5, GREEDY, cache=False)
    assert together == [made.generate([prompt], 5, GREEDY, cache=False)[0] for prompt in prompts]
    with pytest.raises(DataError, match="prompts of different lengths cannot share a cache"):
        made.generate(prompts, 5)


def test_the_end_ends_a_sequence():
    made = model()
    with torch.no_grad():
        made.core.head.linear.bias[EOS] = 1e3
        made.core.head.linear.bias[PAD] = 1e6
    done = []
    assert made.generate(["ab", "cd"], 5, advance=done.append) == [[], []]
    assert done == [1]


@pytest.mark.parametrize("cache", [True, False])
def test_up_to_the_end_of_the_context(cache):
    made = model()
    assert len(made.generate(["a" * 13], 11, Sampling(never=(EOS,)), cache=cache)[0]) == 11
    with pytest.raises(DataError, match=r"a prompt of 13 tokens \(and SOS\) and 12 more do not fit .* at most 11"):
        made.generate(["a" * 13], 12, cache=cache)
    with pytest.raises(DataError, match="the sequence has 24 tokens and begins with SOS, but the input reads 24"):
        made.generate(["a" * 24], 1, cache=cache)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokens": {"position": {"kind": "rotary", "count": "end"}}}, "positions that count from the end"),
        ({"encoder": {"query": {"per_token": 2}}}, "several latents on a token"),
        ({"encoder": {"query": {"style": "learned"}}}, "learned queries that are not shared"),
    ],
)
def test_models_that_can_have_no_cache(changes, said):
    made = model(**changes)
    with pytest.raises(SpecError, match=said):
        made.generate(["abc"], 3)
    assert len(made.generate(["abc"], 3, Sampling(never=(EOS,)), cache=False)[0]) == 3


def test_nothing_to_continue():
    with pytest.raises(DataError, match="a prompt holds no token"):
        generate(model().core, torch.zeros(1, 3, dtype=torch.int64), 2)
    with pytest.raises(DataError, match="at least one prompt"):
        model().generate([], 3)


def test_the_mode_of_the_model_stays():
    made = model().train()
    made.generate(["ab"], 2)
    assert made.training
