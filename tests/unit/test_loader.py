from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceivers.data.loader import Augmenter, Batches, Key, Order, collate, evaluation_batches, training_loader
from perceivers.data.mix import MixSettings
from perceivers.data.prepare import Split
from perceivers.data.reader import Missing, Reader, Row
from perceivers.data.table import Table
from perceivers.elements import Batch
from perceivers.errors import SpecError
from perceivers.inputs.augment_image import ImageAugmentation, RandAugment
from perceivers.inputs.augment_series import SeriesAugmentation
from perceivers.inputs.image import ImageInput
from perceivers.inputs.number import NumberInput
from perceivers.inputs.series import SeriesInput
from perceivers.outputs.base import Sizes
from perceivers.outputs.category import CategoryOutput
from perceivers.outputs.number import NumberOutput

SEED = 7
IMAGE = ImageInput(size=(6, 6), channels=1, mean=(0,), std=(1,))
INPUTS = {
    "photo": IMAGE,
    "wave": SeriesInput(rate=2, seconds=4, mean=(0,), std=(1,)),
    "facts": NumberInput(columns=("x",), mean=(0,), std=(1,)),
}
OUTPUTS = {"label": CategoryOutput(classes=("a", "b", "c"))}
AUGMENT = {
    "photo": ImageAugmentation(crop={"kind": "pad", "padding": 2}, flip=0.5, erase=0.5),
    "wave": SeriesAugmentation(jitter=0.5, scaling=0.5),
}

ONE = {"photo": IMAGE}
MIX = MixSettings(mixup=0.5, cutmix=1.0)


def split(
    count: int = 11, inputs: Mapping[str, Any] = INPUTS, outputs: Mapping[str, Any] = OUTPUTS, **columns: Any
) -> Split:
    """Samples kept in memory; x is the row's number, so that a batch tells which rows are in it."""
    random = np.random.default_rng(0)
    cells = {
        "photo": random.integers(0, 255, (count, 6, 6), dtype=np.uint8),
        "wave": random.normal(size=(count, 8)).astype(np.float32),
        "x": np.arange(count),
        "label": ["abc"[i % 3] for i in range(count)],
        **columns,
    }
    table = Table(cells, "made", Path())
    reader = Reader(inputs, outputs)
    return Split("train", table, reader, [reader.row(table, i) for i in range(count)], Missing(inputs))


def rows_of(batch: Batch) -> list[int]:
    return batch.inputs["facts"].values[:, 0, 0].int().tolist()


def same(one: Batch, other: Batch) -> bool:
    """Bit for bit, names included."""
    pairs = [(one.inputs[n].values, other.inputs[n].values) for n in one.inputs]
    pairs += [(one.targets[n], other.targets[n]) for n in one.targets]
    masks = [(one.inputs[n].mask, other.inputs[n].mask) for n in one.inputs]
    return (
        set(one.inputs) == set(other.inputs)
        and set(one.targets) == set(other.targets)
        and all(torch.equal(a, b) for a, b in pairs)
        and all((a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in masks)
    )


class TestOrder:
    @given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5), st.integers(1, 4))
    def test_every_row_once_an_epoch(self, rows, batch_size, seed, epochs):
        per_epoch = -(-rows // batch_size)
        keys = list(Order(rows, batch_size, seed, 0, epochs * per_epoch))
        assert [key.step for key in keys] == list(range(epochs * per_epoch))
        for epoch in range(epochs):
            seen = Counter(row for key in keys if key.epoch == epoch for row in key.rows)
            assert seen == Counter(range(rows))

    @given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 30), st.integers(0, 30))
    def test_any_start_gives_the_rest_of_the_same(self, rows, batch_size, start, stop):
        whole = list(Order(rows, batch_size, SEED, 0, stop))
        rest = Order(rows, batch_size, SEED, start, stop)
        assert list(rest) == whole[start:]
        assert len(rest) == len(whole[start:])

    def test_epochs_and_seeds_differ(self):
        def order(seed: int, epoch: int) -> tuple[int, ...]:
            return next(iter(Order(50, 50, seed, epoch, epoch + 1))).rows

        assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9

    def test_the_last_batch_may_be_smaller(self):
        assert [len(key.rows) for key in Order(11, 4, SEED, 0, 6)] == [4, 4, 3, 4, 4, 3]

    def test_no_global_random_state_is_read_or_moved(self):
        np.random.seed(1)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()
        first = list(Order(20, 4, SEED, 0, 9))
        np.random.seed(2)
        assert list(Order(20, 4, SEED, 0, 9)) == first
        np.random.seed(1)
        assert (np.random.get_state()[1] == before[0]).all()
        assert torch.equal(torch.get_rng_state(), before[1])


class TestLoader:
    # On a machine with one core torch warns about two workers.
    @pytest.mark.filterwarnings("ignore:This DataLoader will create")
    def test_any_number_of_workers_and_any_start_give_the_same(self):
        def batches(workers: int, start: int) -> list[Batch]:
            made = Batches(split(), Augmenter(INPUTS, AUGMENT, SEED))
            return list(training_loader(made, Order(11, 4, SEED, start, 7), workers))

        alone = batches(0, 0)
        assert len(alone) == 7
        for workers, start in ((1, 0), (2, 0), (0, 3), (2, 4)):
            others = batches(workers, start)
            assert all(same(a, b) for a, b in zip(alone[start:], others, strict=True)), (workers, start)

    def test_the_loader_takes_nothing_from_the_random_state(self):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        list(training_loader(Batches(split(), Augmenter(INPUTS, AUGMENT, SEED)), Order(11, 4, SEED, 0, 3), 0))
        assert torch.equal(torch.get_rng_state(), before)

    def test_evaluation_is_in_table_order_and_unchanged(self):
        whole = list(evaluation_batches(split(), 4))
        assert [rows_of(batch) for batch in whole] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
        (one,) = evaluation_batches(split(), 100)
        assert torch.equal(torch.cat([b.inputs["photo"].values for b in whole]), one.inputs["photo"].values)
        assert one.targets["label"].tolist() == [i % 3 for i in range(11)]


class TestAugmenter:
    def values(self, seed: int, epoch: int, index: int, row: Row | None = None) -> list[np.ndarray]:
        changed = Augmenter(INPUTS, AUGMENT, seed)(row or split()[2], epoch, index)
        return [changed.inputs[name].values for name in ("photo", "wave")]

    def test_seed_epoch_and_row_decide(self):
        first = self.values(SEED, 1, 2)
        for again in (self.values(SEED, 1, 2), self.values(SEED, 1, 2)):
            assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        for other in (self.values(SEED + 1, 1, 2), self.values(SEED, 2, 2), self.values(SEED, 1, 3)):
            assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))

    def test_the_row_itself_is_not_changed(self):
        row = split()[2]
        before = [row.inputs[name].values.copy() for name in INPUTS]
        self.values(SEED, 0, 2, row)
        assert all(np.array_equal(row.inputs[n].values, b) for n, b in zip(INPUTS, before, strict=True))

    def test_other_inputs_and_targets_are_as_they_were(self):
        row = split()[2]
        changed = Augmenter(INPUTS, AUGMENT, SEED)(row, 0, 2)
        assert changed.inputs["facts"] is row.inputs["facts"]
        assert changed.targets == row.targets

    def test_two_inputs_do_not_share_their_noise(self):
        kinds = {"one": INPUTS["wave"], "two": INPUTS["wave"]}
        sample = split()[2].inputs["wave"]
        augmenter = Augmenter(kinds, dict.fromkeys(kinds, AUGMENT["wave"]), SEED)
        changed = augmenter(Row({"one": sample, "two": sample}, {}), 0, 0)
        assert not np.array_equal(changed.inputs["one"].values, changed.inputs["two"].values)

    def test_absent_stays_absent(self):
        row = Row({"photo": None, "wave": None, "facts": None}, {})
        assert Augmenter(INPUTS, AUGMENT, SEED)(row, 0, 0).inputs == row.inputs

    def test_masked_steps_do_not_count(self):
        """A short series is padded; jitter takes its scale from the real steps only, and the padding stays 0."""
        sample = INPUTS["wave"].parse(np.array([1.0, 1.0, 1.0, 1.0]))
        only_jitter = Augmenter(INPUTS, {"wave": SeriesAugmentation(jitter=0.5)}, SEED)
        changed = only_jitter(Row({**split()[0].inputs, "wave": sample}, {}), 0, 0).inputs["wave"]
        np.testing.assert_array_equal(changed.values[:, 0], [1, 1, 1, 1, 0, 0, 0, 0])
        assert (changed.mask == sample.mask).all()

    def test_an_image_with_masked_pixels_is_flipped_whole(self):
        pixels = np.ones((6, 6, 1), np.float32)
        pixels[0, 0] = np.nan
        flip = Augmenter(ONE, {"photo": ImageAugmentation(flip=1.0)}, SEED)
        changed = flip(Row({"photo": IMAGE.parse(pixels)}, {}), 0, 0).inputs["photo"]
        assert np.argwhere(~changed.mask).tolist() == [[0, 5]]

    @pytest.mark.parametrize(
        ("inputs", "settings", "said"),
        [
            (INPUTS, {"phto": AUGMENT["photo"]}, "augmentation names 'phto', which is no input. Did you mean 'photo'?"),
            (INPUTS, {"photo": AUGMENT["wave"]}, "augmentation of 'photo' does not fit its kind, image"),
            (INPUTS, {"wave": AUGMENT["photo"]}, "augmentation of 'wave' does not fit its kind, series"),
            (INPUTS, {"facts": AUGMENT["wave"]}, "augmentation of 'facts' does not fit its kind, number"),
            (INPUTS, {"facts": AUGMENT["photo"]}, "augmentation of 'facts' does not fit its kind, number"),
            (
                {"photo": IMAGE.with_changes(resize="centre_unclamped")},
                {"photo": ImageAugmentation(rand_augment=RandAugment())},
                "'photo': rand_augment works on 8-bit images",
            ),
        ],
    )
    def test_what_does_not_fit(self, inputs, settings, said):
        with pytest.raises(SpecError) as caught:
            Augmenter(inputs, settings, SEED)
        assert said in str(caught.value)


class TestMix:
    def batches(self, made: Split | None = None, mix: MixSettings = MIX) -> Batches:
        return Batches(made or split(inputs=ONE), Augmenter(ONE, {}, SEED), mix)

    def test_targets_become_shares(self):
        batch = self.batches()[Key(0, 0, tuple(range(8)))]
        plain = Batches(split(inputs=ONE))[Key(0, 0, tuple(range(8)))]
        assert batch.targets["label"].shape == (8, 3)
        torch.testing.assert_close(batch.targets["label"].sum(1), torch.ones(8))
        assert not torch.equal(batch.inputs["photo"].values, plain.inputs["photo"].values.float())
        assert batch.inputs["photo"].grid == (6, 6)

    def test_epoch_and_step_decide(self):
        rows = tuple(range(8))
        first = self.batches()[Key(3, 1, rows)]
        assert same(first, self.batches()[Key(3, 1, rows)])
        for key in (Key(4, 1, rows), Key(3, 2, rows)):
            assert not same(first, self.batches()[key])

    @pytest.mark.parametrize(("step", "epoch"), [(0, 0), (1, 1), (1, 0)])
    def test_its_draws_are_no_others(self, monkeypatch, step, epoch):
        """Not those of the order of an epoch, nor of input dropout in a step: numpy fills seeds up with zeros."""
        seeds = []
        monkeypatch.setattr(
            "perceivers.data.loader.mix_images",
            lambda cells, soft, settings, seed: (seeds.append(seed), (cells, soft))[1],
        )
        self.batches()[Key(step, epoch, tuple(range(8)))]
        first = np.random.default_rng(seeds[0]).random()
        for others in ((SEED, epoch), (SEED, step, 1), (SEED, epoch, 1)):
            assert np.random.default_rng(others).random() != first

    def test_off_by_default(self):
        batch = Batches(split(inputs=ONE), Augmenter(ONE, {}, SEED), MixSettings())[Key(0, 0, (0, 1))]
        assert batch.targets["label"].dtype == torch.int64

    @pytest.mark.parametrize(
        ("inputs", "outputs"),
        [
            (INPUTS, OUTPUTS),
            ({"wave": INPUTS["wave"]}, OUTPUTS),
            (ONE, {**OUTPUTS, "x": NumberOutput(mean=(0,), std=(1,))}),
        ],
    )
    def test_only_for_one_image_and_categories(self, inputs, outputs):
        with pytest.raises(SpecError, match="exactly one input, of kind image, and only outputs of kind category"):
            self.batches(split(inputs=inputs, outputs=outputs))

    @pytest.mark.parametrize("lacking", ["mask", "absent", "class"])
    def test_only_what_is_whole_and_known_is_mixed(self, lacking):
        """Rows 1 and 4 lack something: they stay as they are, and the others are mixed among themselves."""
        pixels = [picture.astype(np.float32) for picture in split(inputs=ONE).table.columns["photo"]]
        labels = ["abc"[i % 3] for i in range(11)]
        for row in (1, 4):
            if lacking == "mask":
                pixels[row][0, 0] = np.nan
            elif lacking == "absent":
                pixels[row] = None
            else:
                labels[row] = None
        made = split(inputs=ONE, photo=pixels, label=labels)
        plain = Batches(made)[Key(0, 0, tuple(range(8)))]
        batch = self.batches(made)[Key(0, 0, tuple(range(8)))]
        others = self.batches(made)[Key(0, 0, (0, 2, 3, 5, 6, 7))]
        for row in (1, 4):
            torch.testing.assert_close(
                batch.inputs["photo"].values[row], plain.inputs["photo"].values[row], rtol=0, atol=0, equal_nan=True
            )
        kept = [0, 2, 3, 5, 6, 7]
        assert torch.equal(batch.inputs["photo"].values[kept], others.inputs["photo"].values)
        assert torch.equal(batch.targets["label"][kept], others.targets["label"])
        known = [float(i not in (1, 4) or lacking != "class") for i in range(8)]
        assert batch.targets["label"].sum(1).tolist() == pytest.approx(known)
        losses, counted = OUTPUTS["label"].build(Sizes(4, 4, False, {})).loss(torch.zeros(8, 3), batch.targets["label"])
        assert counted.tolist() == [share > 0 for share in known]
        assert losses.isfinite().all()

    def test_a_batch_without_any_image_is_left_alone(self):
        batch = self.batches(split(inputs=ONE, photo=[None] * 11))[Key(0, 0, (0, 1))]
        assert batch.inputs == {}
        assert batch.targets["label"].tolist() == [0, 1]


class TestCollate:
    def rows(self) -> list[Row]:
        return [split()[i] for i in range(3)]

    def test_an_input_that_no_row_has_is_left_out(self):
        rows = [Row({**row.inputs, "wave": None}, row.targets) for row in self.rows()]
        batch = collate(rows, INPUTS, OUTPUTS)
        assert set(batch.inputs) == {"photo", "facts"}
        assert batch.size == 3

    def test_an_input_that_one_row_lacks_is_masked_there(self):
        rows = self.rows()
        rows[1] = Row({**rows[1].inputs, "wave": None}, rows[1].targets)
        batch = collate(rows, INPUTS, OUTPUTS)
        assert batch.inputs["wave"].mask.any(1).tolist() == [True, False, True]
        assert batch.inputs["photo"].mask is None

    def test_nothing_at_all(self):
        batch = collate([Row(dict.fromkeys(INPUTS), {"label": 0})] * 2, INPUTS, OUTPUTS)
        assert batch.inputs == {}
        assert batch.size == 2
