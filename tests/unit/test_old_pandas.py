import os
import pickle

import numpy as np
import pytest

from perceivers.data.named.old_pandas import read_frames
from perceivers.errors import DataError

FRAME = {
    "acc-x": np.linspace(-1, 1, 5),
    "acc-y": np.arange(5) / 7,
    "sequence": np.arange(5),
    "label": np.array([5] * 5),
}


class DataFrame:
    """Pickled the plain way: class, base `object`, state."""


class Index:
    def __init__(self, state):
        self.saved = state

    def __reduce__(self):
        return new_index, (type(self), self.saved)


class RangeIndex(Index):
    pass


class BlockManager:
    def __init__(self, state):
        self.saved = state

    def __reduce__(self):
        return BlockManager, (), self.saved


def new_index(kind, state):
    raise AssertionError("only its name is pickled")


NAMES = {
    f"c{__name__}\nDataFrame\n": "cpandas.core.frame\nDataFrame\n",
    f"c{__name__}\nBlockManager\n": "cpandas.core.internals.managers\nBlockManager\n",
    f"c{__name__}\nIndex\n": "cpandas.core.indexes.base\nIndex\n",
    f"c{__name__}\nRangeIndex\n": "cpandas.core.indexes.range\nRangeIndex\n",
    f"c{__name__}\nnew_index\n": "cpandas.core.indexes.base\n_new_Index\n",
    "cnumpy._core.multiarray\n": "cnumpy.core.multiarray\n",
}


def old_pickle(frames):
    """What pandas of 2020 wrote for `{user: [frame, …]}`: a block of floats, a block of integers, each with names."""
    groups = {}
    for user, columns in frames.items():
        floats = [name for name, column in columns.items() if column.dtype.kind == "f"]
        integers = [name for name in columns if name not in floats]
        blocks = [np.stack([columns[name] for name in names]) for names in (floats, integers)]
        items = [Index({"data": np.array(names, dtype=object), "name": None}) for names in (floats, integers)]
        axes = [Index({"data": np.array(list(columns), dtype=object)}), RangeIndex({"start": 0, "stop": 5})]
        layout = [{"values": block, "mgr_locs": slice(0, 2, 1)} for block in blocks]
        frame = DataFrame()
        frame._data = BlockManager((axes, blocks, items, {"0.14.1": {"axes": axes, "blocks": layout}}))
        groups[user] = [frame]
    content = pickle.dumps(groups, protocol=1)
    for ours, theirs in NAMES.items():
        assert ours.encode() in content
        content = content.replace(ours.encode(), theirs.encode())
    return content


def test_the_columns_come_back():
    frames = read_frames(old_pickle({3: FRAME, 4: FRAME}), "toy.pkl")
    assert list(frames) == [3, 4]
    for frame in (frames[3][0], frames[4][0]):
        assert set(frame) == set(FRAME)
        for name, column in FRAME.items():
            assert frame[name].dtype == column.dtype
            np.testing.assert_array_equal(frame[name], column)


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (Attack(os.system, "exit 1"), f"{os.name}.system"),
        (Attack(eval, "1"), "__builtin__.eval"),
        (Attack(getattr, "", "join"), "__builtin__.getattr"),
        (Attack(np.load, "file"), "numpy.load"),
    ],
)
def test_a_name_that_is_not_needed_is_refused(payload, named):
    with pytest.raises(DataError, match=rf"toy\.pkl is not a pickle of data frames.*'{named}', which is not allowed"):
        read_frames(pickle.dumps({1: [payload]}, protocol=1), "toy.pkl")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2], protocol=1),
        pickle.dumps({1: [3]}, protocol=1),
        b"c_codecs\nencode\n(Vabc\nVzip\ntR.",  # bytes in another coding
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I100000000000\ntVf8\ntR.",  # 800 GB
        b"ccopy_reg\n_reconstructor\n(c__builtin__\nslice\nc__builtin__\nobject\nNtR.",
    ],
)
def test_another_pickle_is_refused(content):
    with pytest.raises(DataError, match=r"toy\.pkl is not a pickle of data frames as expected"):
        read_frames(content, "toy.pkl")
