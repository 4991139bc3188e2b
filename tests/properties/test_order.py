"""Order: of inputs, of names in the spec, of elements, of samples, none of which may matter."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixes import FP64_SUM, mixes, model_of, spec

from perceivers.elements import Batch
from perceivers.models.build import build

few = settings(max_examples=40)


@few
@given(mixes(), st.randoms(use_true_random=False))
def test_inputs_of_a_batch_in_any_order(mix, random):
    model, batch = model_of(mix.names), mix.batch()
    names = list(batch.inputs)
    random.shuffle(names)
    shuffled = Batch({name: batch.inputs[name] for name in names}, batch.size)
    samples = [dict(random.sample(list(s.items()), len(s))) for s in mix.samples]
    for name, prediction in model(batch).items():
        assert torch.equal(model(shuffled)[name], prediction)
        assert torch.equal(model(samples)[name], prediction)


@few
@given(mixes())
def test_names_of_a_spec_in_any_order(mix):
    one, other = (build(spec(names), seed=1).double() for names in (mix.names, mix.names[::-1]))
    batch = mix.batch()
    for name, prediction in one(batch).items():
        assert torch.equal(other(batch)[name], prediction)


@few
@given(mixes(), st.integers(0, 10**6))
def test_elements_in_any_order_with_their_positions(mix, seed):
    model, batch = model_of(mix.names), mix.batch()
    seen = {}
    handle = model.encoder.register_forward_pre_hook(lambda _, arguments: seen.update(read=arguments[0]))
    latents = model.encode(batch)
    handle.remove()
    elements, mask = seen["read"].joined, seen["read"].mask
    order = torch.randperm(elements.shape[1], generator=torch.Generator().manual_seed(seed))
    shuffled = model.encoder(elements[:, order], None if mask is None else mask[:, order])
    torch.testing.assert_close(shuffled, latents, **FP64_SUM)


@given(st.integers(0, 2**32 - 1))
def test_events_in_any_order_with_their_times(seed):
    generator = np.random.default_rng(seed)
    values, times = generator.normal(size=(6, 2)), generator.uniform(0, 5, 6)
    values[1] = np.nan
    order = generator.permutation(6)
    model = model_of(("events",))
    one = model({"events": {"values": values, "times": times}})
    other = model({"events": {"values": values[order], "times": times[order]}})
    apart = model({"events": {"values": values[order], "times": times}})
    for name in one:
        torch.testing.assert_close(other[name], one[name], **FP64_SUM)
    if not np.array_equal(values[order], values, equal_nan=True):
        assert not torch.equal(apart["label"], one["label"]), "the time of a value matters"


@few
@given(mixes(least=2), st.randoms(use_true_random=False))
def test_samples_of_a_batch_in_any_order(mix, random):
    model = model_of(mix.names)
    order = random.sample(range(len(mix.samples)), len(mix.samples))
    together = model(mix.samples)
    for name, prediction in model([mix.samples[i] for i in order]).items():
        torch.testing.assert_close(prediction, together[name][order], **FP64_SUM)
