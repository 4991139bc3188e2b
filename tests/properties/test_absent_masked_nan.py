"""Any input may be absent, masked in part, or NaN: each rule of the house over every input kind and mix."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixes import FP64_SUM, KINDS, Mix, gradients, mixes, model_of, with_masked, without_elements

from perceivers.elements import Batch
from perceivers.errors import DataError

# Their raw values are arrays of numbers, each cell an element before the lift.
HAVE_HOLES = {"photo", "tiles", "grid", "stem", "clip", "film", "voice", "noise", "wave", "beats", "hum", "row"}
HAVE_HOLES |= {"cloud", "scan"}
FILLS = st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30])

few = settings(max_examples=40)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@few
@given(mixes(absent=False), st.data())
def test_an_absent_input_is_one_with_no_elements_bit_for_bit(mix, data):
    model, batch = model_of(mix.names), mix.batch()
    gone = data.draw(st.sets(st.sampled_from(mix.names), min_size=1))
    empty = {n: without_elements(e) if n in gone else e for n, e in batch.inputs.items()}
    assert same_bits(model(batch.without(*gone)), model(Batch(empty, batch.size)))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_may_have_no_elements(name):
    generator = np.random.default_rng(0)
    other = "row" if name != "row" else "words"
    mix = Mix((name, other), [{n: KINDS[n][1](generator, 0.0) for n in (name, other)}], 0)
    model, batch = model_of(mix.names), mix.batch()
    empty = Batch({**batch.inputs, name: without_elements(batch.inputs[name])}, 1)
    assert same_bits(model(batch.without(name)), model(empty))
    assert not torch.equal(model(batch)["label"], model(empty)["label"]), "the input is read when it is there"


@few
@given(mixes(least=2))
def test_a_sample_with_absent_inputs_equals_itself_alone(mix):
    model = model_of(mix.names)
    together = model(mix.samples)
    for row, sample in enumerate(mix.samples):
        for name, alone in model(sample).items():
            torch.testing.assert_close(together[name][row], alone[0], **FP64_SUM)


@few
@given(mixes(absent=False), st.data())
def test_rows_that_are_not_kept_are_absent(mix, data):
    """What input dropout does to a batch is what a table does that lacks the cell."""
    model, batch = model_of(mix.names), mix.batch()
    gone = data.draw(st.sampled_from(mix.names))
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=batch.size, max_size=batch.size)))
    dropped = model(Batch({**batch.inputs, gone: batch.inputs[gone].keep(keep)}, batch.size))
    lacking = [
        {n: v for n, v in s.items() if n != gone or kept} for s, kept in zip(mix.samples, keep.tolist(), strict=True)
    ]
    for name, prediction in model(lacking).items():
        torch.testing.assert_close(dropped[name], prediction, **FP64_SUM)


@few
@given(mixes(), FILLS, st.booleans())
def test_a_masked_element_changes_nothing_whatever_its_value(mix, fill, training):
    zeros, filled = (model_of(mix.names, training) for _ in range(2))
    batch = mix.batch()
    before, after = with_masked(batch, mix.seed, 0.0), with_masked(batch, mix.seed, fill)
    with torch.no_grad():
        assert same_bits(zeros(before), filled(after))
    assert same_bits(dict(zeros.named_buffers()), dict(filled.named_buffers())), "running averages included"


@few
@given(mixes(), FILLS, st.booleans())
def test_nor_does_it_change_a_gradient(mix, fill, training):
    batch = mix.batch()
    zeros = gradients(model_of(mix.names, training), with_masked(batch, mix.seed, 0.0))
    filled = gradients(model_of(mix.names, training), with_masked(batch, mix.seed, fill))
    assert same_bits(zeros, filled)
    assert all(gradient.isfinite().all() for gradient in filled.values())


@few
@given(mixes(absent=False, holes=False), st.integers(0, 2**32 - 1))
def test_a_nan_in_a_raw_value_masks_that_element(mix, seed):
    """And only that one: the rest is read as if the element had been masked by hand."""
    model, whole = model_of(mix.names), mix.batch()
    generator = np.random.default_rng(seed)
    samples, masks = [], {n: e.present.clone() for n, e in whole.inputs.items()}
    for row, sample in enumerate(mix.samples):
        changed = dict(sample)
        for name in set(mix.names) & HAVE_HOLES:
            values = np.array(sample[name], dtype=np.float64)
            cells = values.reshape(-1, values.shape[-1]) if name != "row" else values[:, None]
            place = int(generator.integers(len(cells)))
            cells[place, generator.integers(cells.shape[1])] = generator.choice([np.nan, np.inf, -np.inf])
            changed[name] = values
            masks[name][row, place] = False
        samples.append(changed)
    parsed = model.collate(samples)
    for name, mask in masks.items():
        assert torch.equal(parsed.inputs[name].present, mask)
    by_hand = Batch({n: type(e)(e.values, e.coords, e.grid, masks[n]) for n, e in whole.inputs.items()}, len(samples))
    for name, prediction in model(by_hand).items():
        torch.testing.assert_close(model(parsed)[name], prediction, **FP64_SUM)


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"words"}))
def test_nan_may_be_an_error_instead(name):
    kind = model_of((name,)).spec.inputs[name].with_changes(nan="error")
    generator = np.random.default_rng(3)
    whole = KINDS[name][1](generator, 0.0)
    if name == "tags":
        whole = {"x": "p", "y": "q"}
    kind.parse(whole)
    holes = {"tags": {"x": "p"}, "events": {"values": [[1, np.nan]], "times": [0]}}.get(name)
    with pytest.raises(DataError, match="'nan: error' is set"):
        kind.parse(KINDS[name][1](generator, 1.0) if holes is None else holes)


@few
@given(mixes(), st.sampled_from(["no key", "all masked", "no elements"]), st.booleans())
def test_with_nothing_at_all_to_read_everything_passes(mix, way, training):
    model, batch = model_of(mix.names, training), mix.batch()
    nobody = torch.zeros(batch.size, dtype=torch.bool)
    inputs = {
        "no key": {},
        "all masked": {n: e.keep(nobody) for n, e in batch.inputs.items()},
        "no elements": {n: without_elements(e) for n, e in batch.inputs.items()},
    }[way]
    nothing = Batch(inputs, batch.size)
    latents = model.encode(nothing)
    torch.testing.assert_close(latents, model.encode(Batch({}, batch.size)), **FP64_SUM)
    torch.testing.assert_close(latents, latents[:1].expand_as(latents), **FP64_SUM)
    assert all(p.isfinite().all() for p in model(nothing).values())
    found = gradients(model, nothing)
    assert all(g.isfinite().all() for g in found.values())
    assert not any(g.any() for n, g in found.items() if n.startswith("inputs.")), "nothing is learned from nothing"
