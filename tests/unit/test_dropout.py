import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.elements import Batch, Elements
from perceivers.training.dropout import drop_inputs

NAMES = ("a", "b", "c")


def batch(present: list[list[bool]]) -> Batch:
    """Three inputs of two elements each; `present` (samples, 3) says which input a sample has."""
    inputs = {}
    for i, name in enumerate(NAMES):
        mask = torch.tensor([[row[i], False] for row in present])
        inputs[name] = Elements(torch.ones(len(present), 2, 1), grid=(2,), mask=mask)
    return Batch(inputs, len(present), {"label": torch.arange(len(present))})


def has(batch: Batch) -> torch.Tensor:
    """(samples, inputs) whether the sample has any element of the input."""
    return torch.stack([batch.inputs[name].present.any(1) for name in sorted(batch.inputs)], dim=1)


probabilities = st.fixed_dictionaries({name: st.floats(0, 0.999) for name in NAMES})


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=20),
    probabilities,
    st.integers(0, 99),
)
def test_a_sample_never_loses_all_that_it_has_nor_gains_anything(present, chances, seed):
    before = torch.tensor(present)
    after = has(drop_inputs(batch(present), chances, (seed, 3)))
    assert not (after & ~before).any(), "what was absent stays absent"
    assert torch.equal(after.any(1), before.any(1)), "something stays where there was something"


def test_rates():
    """Of two independent inputs; the rates are those asked for, less the samples that would have lost everything."""
    count = 20_000
    elements = {name: Elements(torch.ones(count, 1, 1), grid=(1,)) for name in ("a", "b")}
    after = has(drop_inputs(Batch(elements, count), {"a": 0.3, "b": 0.1}, (0, 0))).float()
    # Both would go with 0.03; then each stays in half of the cases.
    assert 1 - after[:, 0].mean() == pytest.approx(0.3 - 0.015, abs=0.01)
    assert 1 - after[:, 1].mean() == pytest.approx(0.1 - 0.015, abs=0.01)


def test_the_one_that_stays_is_drawn_evenly():
    count = 6_000
    after = has(drop_inputs(batch([[True] * 3] * count), dict.fromkeys(NAMES, 0.999999), (1, 2)))
    assert (after.sum(1) == 1).float().mean() > 0.999
    assert after.float().mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_seed_and_step_decide():
    whole = batch([[True] * 3] * 50)
    chances = dict.fromkeys(NAMES, 0.5)
    first = has(drop_inputs(whole, chances, (4, 7)))
    torch.rand(1)
    assert torch.equal(first, has(drop_inputs(whole, chances, (4, 7))))
    for other in ((4, 8), (5, 7)):
        assert not torch.equal(first, has(drop_inputs(whole, chances, other)))


def test_no_random_state_is_moved():
    before = torch.get_rng_state()
    drop_inputs(batch([[True] * 3] * 5), dict.fromkeys(NAMES, 0.5), (0, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_probabilities_it_is_the_same_batch():
    whole = batch([[True] * 3] * 5)
    assert drop_inputs(whole, {}, (0, 0)) is whole
    assert drop_inputs(whole, {"a": 0.0}, (0, 0)) is whole
    assert drop_inputs(whole, {"elsewhere": 0.9}, (0, 0)) is whole


def test_an_input_that_is_not_named_always_stays():
    after = has(drop_inputs(batch([[True] * 3] * 200), {"a": 0.9}, (0, 0)))
    assert after[:, 1:].all()
    assert not after[:, 0].all()


def test_elements_that_were_masked_stay_masked_and_targets_are_kept():
    whole = batch([[True] * 3] * 50)
    dropped = drop_inputs(whole, dict.fromkeys(NAMES, 0.5), (0, 0))
    assert not any(dropped.inputs[name].present[:, 1].any() for name in NAMES)
    assert torch.equal(dropped.targets["label"], whole.targets["label"])


def test_a_batch_that_lacks_an_input_altogether():
    whole = batch([[True] * 3] * 50).without("b")
    after = drop_inputs(whole, dict.fromkeys(NAMES, 0.9), (0, 0))
    assert set(after.inputs) == {"a", "c"}
    assert has(after).any(1).all()
    assert drop_inputs(whole.without("a", "c"), {"a": 0.5}, (0, 0)).size == 50
