from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from perceivers.data.copy_task import CopySplits
from perceivers.data.files import write_rows
from perceivers.data.settings import SplitSettings
from perceivers.data.splits import ColumnSplits, FileSplits, FractionSplits, split_table
from perceivers.data.table import Table
from perceivers.errors import DataError, SpecError
from perceivers.settings import Settings, parse_settings

SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.2, 1 / 3, 0.45])


def table(**columns) -> Table:
    return Table(columns, "people.csv", Path("/data"))


def rows_of(splits: dict[str, Table]) -> dict[str, list[int]]:
    return {name: part.rows.tolist() for name, part in splits.items()}


class TestFiles:
    def test_each_split_is_a_table_of_its_own(self, tmp_path):
        for name, count in (("a", 3), ("b", 2)):
            write_rows([{"x": i} for i in range(count)], tmp_path / f"{name}.jsonl")
        splits = split_table(None, FileSplits(train="a.jsonl", test="b.jsonl"), tmp_path)
        assert {name: len(part) for name, part in splits.items()} == {"train": 3, "test": 2}
        beside = Table({"x": [1]}, "main.csv", tmp_path)
        assert len(split_table(beside, FileSplits(train="b.jsonl"))["train"]) == 2

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=r"none\.csv: there is no such file"):
            split_table(None, FileSplits(train="none.csv"), tmp_path)


class TestColumn:
    def test_values_name_the_splits(self):
        source = table(fold=["train", "test", "train", "validation"], x=[1, 2, 3, 4])
        assert rows_of(split_table(source, ColumnSplits(column="fold"))) == {
            "train": [1, 3],
            "validation": [4],
            "test": [2],
        }

    def test_other_values_and_numbers(self):
        source = table(fold=np.array([0.0, 1.0, 0.0]))
        splits = split_table(source, ColumnSplits(column="fold", train="0", test="1"))
        assert rows_of(splits) == {"train": [1, 3], "test": [2]}

    def test_unknown_value(self):
        source = table(fold=["train", "tset"])
        with pytest.raises(
            DataError, match=r"people\.csv, row 2, column 'fold': 'tset' is no split\. Did you mean 'test'\?"
        ):
            split_table(source, ColumnSplits(column="fold"))

    def test_empty_cell(self):
        with pytest.raises(DataError, match="row 1, column 'fold': the cell is empty"):
            split_table(table(fold=[None, "train"]), ColumnSplits(column="fold"))

    def test_unknown_column(self):
        with pytest.raises(DataError, match=r"no column 'fodl'\. Did you mean 'fold'\?"):
            split_table(table(fold=["train"]), ColumnSplits(column="fodl"))

    def test_nothing_for_training(self):
        with pytest.raises(DataError, match=r"no row is for training \('train'\)"):
            split_table(table(fold=["test"]), ColumnSplits(column="fold"))

    def test_one_value_for_two_splits(self):
        with pytest.raises(SpecError, match="three different values"):
            parse_settings(ColumnSplits, {"column": "fold", "train": "a", "test": "a"}, "recipe")


def check_partition(source: Table, splits: dict[str, Table]) -> None:
    found = [row for part in splits.values() for row in part.rows.tolist()]
    assert sorted(found) == source.rows.tolist()
    assert "train" in splits
    assert all(len(part) for part in splits.values())
    assert all(part.rows.tolist() == sorted(part.rows.tolist()) for part in splits.values())


class TestPlainFractions:
    @given(st.integers(3, 400), SHARES, SHARES, st.integers(0, 9))
    def test_a_partition_with_the_wanted_sizes(self, count, validation, test, seed):
        source = table(x=np.arange(count))
        wanted = FractionSplits(validation=validation, test=test, seed=seed)
        splits = split_table(source, wanted)
        check_partition(source, splits)
        for name, share in (("validation", validation), ("test", test)):
            size = len(splits.get(name, ()))
            assert abs(size - share * count) <= 1
            assert (size > 0) == (share > 0)
        assert rows_of(split_table(source, wanted)) == rows_of(splits)

    def test_seeds_differ(self):
        source = table(x=np.arange(100))
        one, other = (split_table(source, FractionSplits(seed=seed))["test"].rows.tolist() for seed in (0, 1))
        assert one != other

    def test_too_few_rows(self):
        with pytest.raises(DataError, match=r"people\.csv: 2 rows cannot be shared among 3 splits"):
            split_table(table(x=[1, 2]), FractionSplits())
        assert len(split_table(table(x=[1, 2]), FractionSplits(test=0, validation=0))["train"]) == 2

    @pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (0.9, 0.2)])
    def test_shares_that_leave_nothing(self, validation, test):
        with pytest.raises(SpecError, match="leave nothing for training"):
            parse_settings(FractionSplits, {"validation": validation, "test": test}, "recipe")

    @pytest.mark.parametrize("share", [-0.1, 1.0])
    def test_shares_out_of_range(self, share):
        with pytest.raises(SpecError, match="test"):
            parse_settings(FractionSplits, {"test": share}, "recipe")


class TestStratified:
    @given(st.lists(st.integers(0, 5), min_size=20, max_size=200), SHARES, SHARES, st.integers(0, 3))
    def test_every_class_is_shared_out_alike(self, labels, validation, test, seed):
        source = table(label=[f"c{label}" for label in labels])
        sizes = Counter(source.columns["label"])
        splits = split_table(source, FractionSplits(validation=validation, test=test, stratify="label", seed=seed))
        check_partition(source, splits)
        assert set(splits["train"].columns["label"]) == set(sizes)
        for name, share in (("validation", validation), ("test", test)):
            if name in splits:
                found = Counter(splits[name].columns["label"])
                for label, size in sizes.items():
                    if size * (1 - validation - test) >= 3:  # else the row that stays in training decides
                        assert abs(found[label] - share * size) < 1 + 1e-6
            if min(sizes.values()) * (1 - validation - test) >= 3:
                assert abs(len(splits.get(name, ())) - share * len(source)) <= 1

    def test_ties_are_drawn_so_that_no_class_is_always_left_out(self):
        source = table(label=[f"c{i % 10}" for i in range(50)])
        seen = {
            label
            for seed in range(20)
            for label in split_table(source, FractionSplits(stratify="label", seed=seed))["test"].columns["label"]
        }
        assert len(seen) == 10

    def test_a_class_of_one_row_is_for_training(self):
        source = table(label=["rare"] + ["a"] * 30)
        for seed in range(10):
            splits = split_table(source, FractionSplits(stratify="label", test=0.4, seed=seed))
            assert "rare" in splits["train"].columns["label"]

    def test_empty_cells_are_a_class(self):
        source = table(label=[None] * 20 + ["a"] * 20)
        splits = split_table(source, FractionSplits(stratify="label", test=0.25, validation=0))
        assert Counter(splits["test"].columns["label"]) == {None: 5, "a": 5}

    def test_a_class_per_row(self):
        with pytest.raises(DataError, match=r"column 'x': 30 classes in 30 rows are too few rows a class for a 'test'"):
            split_table(table(x=np.linspace(0, 1, 30)), FractionSplits(stratify="x"))


GROUPS = st.lists(st.integers(1, 12), min_size=3, max_size=40)


class TestGrouped:
    @given(GROUPS, SHARES, SHARES, st.integers(0, 3), st.randoms(use_true_random=False))
    def test_no_group_is_torn_apart(self, sizes, validation, test, seed, random):
        users = [f"u{i}" for i, size in enumerate(sizes) for _ in range(size)]
        random.shuffle(users)
        source = table(user=users)
        wanted = FractionSplits(validation=validation, test=test, group="user", seed=seed)
        splits = split_table(source, wanted)
        check_partition(source, splits)
        users_of = {name: set(part.columns["user"]) for name, part in splits.items()}
        assert sum(map(len, users_of.values())) == len(sizes)
        for name, share in (("validation", validation), ("test", test)):
            assert (name in splits) == (share > 0)
            few = len(sizes) * (1 - validation - test) < 4  # the last groups are kept for the other splits
            if share and not few and len(users_of[name]) > 1:
                assert abs(len(splits[name]) - share * len(source)) <= max(sizes) / 2
        # The order of the rows does not matter.
        again = split_table(source.take(np.argsort(users, kind="stable")), wanted)
        assert {name: set(part.columns["user"]) for name, part in again.items()} == users_of

    @given(GROUPS, st.integers(2, 4), st.integers(0, 3))
    @settings(max_examples=30)
    def test_with_classes_too(self, sizes, classes, seed):
        users = [f"u{i}" for i, size in enumerate(sizes) for _ in range(size)]
        source = table(user=users, label=[i % classes for i in range(len(users))])
        splits = split_table(source, FractionSplits(stratify="label", group="user", seed=seed))
        check_partition(source, splits)
        assert sum(len(set(part.columns["user"])) for part in splits.values()) == len(sizes)

    def test_classes_are_balanced_as_well_as_the_groups_allow(self):
        # 60 users with one class each, 3 : 1.
        source = table(user=[i // 5 for i in range(300)], label=["ab"[i // 5 % 4 == 0] for i in range(300)])
        for seed in range(5):
            splits = split_table(source, FractionSplits(test=0.2, stratify="label", group="user", seed=seed))
            assert Counter(splits["test"].columns["label"]) == {"a": 45, "b": 15}

    def test_groups_of_uneven_classes(self):
        random = np.random.default_rng(3)
        rows = [
            (user, label)
            for user in range(30)
            for label in random.choice(4, random.integers(5, 30), p=random.dirichlet([0.5] * 4))
        ]
        source = table(user=[user for user, _ in rows], label=[label for _, label in rows])
        sizes = Counter(source.columns["label"])
        for seed in range(10):
            settings = FractionSplits(validation=0.2, test=0.2, stratify="label", group="user", seed=seed)
            splits = split_table(source, settings)
            for name in ("validation", "test"):
                found = Counter(splits[name].columns["label"])
                assert max(abs(found[label] / size - 0.2) for label, size in sizes.items()) < 0.1

    def test_too_few_groups(self):
        with pytest.raises(DataError, match=r"column 'user': 2 groups cannot be shared among 3 splits"):
            split_table(table(user=["a", "b"] * 20), FractionSplits(group="user"))

    def test_a_row_without_a_group(self):
        with pytest.raises(DataError, match=r"people\.csv, row 2, column 'user': the group is empty"):
            split_table(table(user=["a", None, "c", "d"]), FractionSplits(group="user"))

    def test_missing_column(self):
        with pytest.raises(DataError, match=r"no column 'usr'\. Did you mean 'user'\?"):
            split_table(table(user=["a", "b", "c"]), FractionSplits(group="usr"))


def test_settings_are_told_apart_by_kind():
    class Recipe(Settings):
        splits: SplitSettings

    assert issubclass(Recipe, BaseModel)
    for kind, data in (
        (FileSplits, {"kind": "files", "train": "a.csv"}),
        (ColumnSplits, {"kind": "column", "column": "fold"}),
        (FractionSplits, {"kind": "fraction", "group": "user"}),
        (CopySplits, {"kind": "copy", "length": 30}),
    ):
        recipe = parse_settings(Recipe, {"splits": data}, "recipe")
        assert type(recipe.splits) is kind
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    with pytest.raises(SpecError, match=r"splits: unknown kind 'colum'\. Did you mean 'column'\?"):
        parse_settings(Recipe, {"splits": {"kind": "colum"}}, "recipe")
