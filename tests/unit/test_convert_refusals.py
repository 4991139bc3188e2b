"""Pickles that are no weights: each is an error that says why, none runs anything or fills the memory."""

import copyreg
import io
import os
import pickle
import struct
import tracemalloc
from collections import Counter
from datetime import date
from fractions import Fraction

import numpy as np
import pytest
from foreign_pickles import MAKE_ARRAY, Reduced, claiming, foreign, jax_array
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.errors import DataError, ModelError
from perceivers.models.convert import read_weights
from perceivers.models.convert.pickle_reader import MOST_INSTRUCTIONS

W = np.arange(6, dtype=np.float32).reshape(2, 3)
VALID = pickle.dumps({"m": {"w": W, "b": W[0]}, "n": {"w": W}}, 4)


@pytest.fixture
def refusal(tmp_path):
    """The message of the error that a pickle is, given as bytes or as what is pickled."""

    def refuse(content, protocol: int = 4) -> str:
        path = tmp_path / "weights.pickle"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        with pytest.raises(ModelError) as caught:
            read_weights(path)
        said = str(caught.value)
        assert said.startswith(f"'{path}' cannot be read: ")
        assert said.isprintable()
        assert len(said) < 500
        return said

    return refuse


@pytest.fixture
def mark(tmp_path):
    """A file that is there once something has been executed."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "the pickle was executed"


def test_calls_of_the_system(refusal, mark):
    said = refusal(Reduced(os.system, (f"touch {mark}",)))
    assert f"it names '{os.name}.system'" in said
    assert "Nothing in it was executed." in said


def test_a_call_deep_within_an_array(refusal, mark):
    inner = Reduced(os.system, (f"touch {mark}",))
    for tree in (
        {"m": {"w": Reduced(MAKE_ARRAY, (np.ndarray, (inner,), b"b"))}},
        {"m": {"w": claiming((2, 3), inner)}},
        {"m": {"w": Reduced(getattr, (inner, "x"))}},
    ):
        assert "it names '" in refusal(tree)


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, compile, bytearray])
def test_builtins(refusal, function):
    assert f"it names 'builtins.{function.__name__}'" in refusal(Reduced(function, ("1",)))


@pytest.mark.parametrize("thing", [date(2020, 1, 1), Fraction(1, 2), Counter("a"), {1, 2}, frozenset("a"), 3 + 4j])
def test_other_objects(refusal, thing):
    assert "it names '" in refusal({"m": {"w": thing}}) or "it holds a set" in refusal({"m": {"w": thing}})


def test_torch_is_named(refusal):
    assert "it names 'torch._utils._rebuild_tensor_v2'" in refusal(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.")


def test_attributes_of_what_may_be_named(refusal):
    """A name with dots is one name, not a way to what hangs on an object."""
    assert "it names 'numpy.ndarray.tofile'" in refusal(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")


def test_names_cannot_move_the_cursor(refusal):
    said = refusal(b"\x80\x02c\x1b[2Jos\nsys\x07tem\n.")
    assert "\\x1b[2Jos.sys\\x07tem" in said


@pytest.mark.parametrize("protocol", [0, 2])
def test_persistent_ids(refusal, protocol):
    class Persistent(pickle.Pickler):
        def persistent_id(self, obj):
            return "7" if isinstance(obj, float) else None

    stream = io.BytesIO()
    Persistent(stream, protocol).dump({"m": {"w": 1.5}})
    assert "it holds a persistent id" in refusal(stream.getvalue())


@pytest.mark.parametrize("code", [7, 700, 70_000])
def test_extension_codes(refusal, monkeypatch, code):
    copyreg.add_extension("datetime", "date", code)
    try:
        assert "it holds an extension code" in refusal(Reduced(date, (2020, 1, 1)))
    finally:
        copyreg.remove_extension("datetime", "date", code)


def test_escapes_in_names_are_not_undone(refusal):
    assert r"it names 'n\x75mpy.dtype'" in refusal(b"\x80\x02cn\\x75mpy\ndtype\n.")
    assert r"it names 'numpy.\odtype'" in refusal(b"\x80\x02cnumpy\n\\odtype\n.")


def test_old_instances(refusal):
    assert "it holds an instance of a class" in refusal(b"(ios\nsystem\n.")
    assert "it holds an instance of a class" in refusal(b"(o.")


def test_a_state_is_set_on_arrays_only(refusal):
    # BUILD would call __setstate__, or fill the attributes of whatever stands on the stack.
    assert "a state for something that is no array" in refusal(b"\x80\x04}}b.")
    assert "a state for something that is no array" in refusal(b"\x80\x04cnumpy\ndtype\n}b.")


def test_calls_of_what_is_no_name(refusal):
    assert "a call of something that is no name" in refusal(b"\x80\x04})R.")
    assert "may only be named" in refusal(b"\x80\x04cnumpy\nndarray\n)R.")
    assert "may only be named" in refusal(b"\x80\x04cnumpy\nndarray\n)\x81.")


def test_jax_around_something_else(refusal, monkeypatch):
    make = foreign(monkeypatch, "jax._src.array", "_reconstruct_array")
    array = jax_array(make, W)
    array.reduced = (make, (np.dtype, *array.reduced[1][1:]))
    assert "a jax array that is not made of a numpy array" in refusal({"m": {"w": array}})


def test_every_truncation(refusal):
    for length in range(len(VALID)):
        assert "truncated" in refusal(VALID[:length])


@pytest.mark.parametrize("content", [b"", b"\x80", b"0123456789", b"\x00" * 10, b"\x80\x04" + b"\xff" * 8, b"." * 10])
def test_ten_bytes(refusal, content):
    assert "it is no pickle, or is truncated or damaged" in refusal(content)


def test_a_protocol_of_the_future(refusal):
    assert "protocol 6" in refusal(b"\x80\x06" + VALID[2:])


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ([W], "it holds a list"),
        (W, "it holds an array"),
        ("text", "it holds a str"),
        (None, "it holds a NoneType"),
        ({}, "there is no array in it"),
        ({"m": {}}, "there is no array in it"),
        ({"m": W}, "module 'm' is an array"),
        ({"m": [W]}, "module 'm' is a list"),
        ({"m": {"w": [1.0]}}, "'w' in module 'm' is a list"),
        ({"m": {"w": {"x": W}}}, "'w' in module 'm' is a dict"),
        ({"params": {"m": {"w": W}}, "state": 3}, "'state' is a int"),
        ({"a/b": {"c": W}, "a": {"b/c": W}}, "'params/a/b/c' is there more than once"),
        ({"m" * 2000: {"w": W}}, "has 2,000 characters"),
        ({1: {"w": W}}, "no mapping from text"),
        ({"m": {("w",): W}}, "no mapping from text"),
        ({"m": {"w": np.array(["a"], object)}}, "the dtype 'O8'"),
        ({"m": {"w": claiming((1,), ["a"])}}, "an array without its bytes"),
        ({"m": {"w": claiming((1,), "text")}}, "an array without its bytes"),
        ({"m": {"w": np.array(["a"])}}, "the dtype 'U1'"),
        ({"m": {"w": np.zeros(2, "f4,i4")}}, "the dtype 'V8'"),
        ({"m": {"w": np.array("2020", "datetime64[s]")}}, "the dtype 'M8'"),
        ({"m": {"w": claiming((1,) * 9, b"0000")}}, "whose shape is not at most 8 sizes"),
        ({"m": {"w": claiming((-1, -1), b"0000")}}, "whose shape is not"),
        ({"m": {"w": claiming((True,), b"0000")}}, "whose shape is not"),
        ({"m": {"w": claiming((0, 10**30))}}, "whose shape is not"),
        ({"m": {"w": claiming((0, 2**62, 2**62))}}, "'params/m/w' is"),
        ({"m": {"w": claiming([1], b"0000")}}, "whose shape is not"),
        ({"m": {"w": claiming((3,), b"0000")}}, "claims 12 bytes and has 4"),
        ({"m": {"w": claiming((10**6, 10**6))}}, "claims 4,000,000,000,000 bytes and has 0"),
        ({"m": {"w": Reduced(MAKE_ARRAY, (np.ndarray, (10**12,), b"b"))}}, "an array without shape"),
    ],
)
def test_what_is_no_mapping_of_arrays(refusal, tree, said):
    assert said in refusal(tree)


def bomb_of_shared_bytes() -> bytes:
    """A thousand arrays over one text of a hundred kilobytes."""
    data = b"\0" * 400_000
    return pickle.dumps({"m": {str(n): claiming((100_000,), data) for n in range(1000)}}, 4)


def bomb_of_shared_modules() -> bytes:
    inner = {str(n): W for n in range(1000)}
    return pickle.dumps({str(n): inner for n in range(1000)}, 4)


def bomb_of_encoded_text() -> bytes:
    """One text of which bytes are made again and again."""
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x01"
    return b"\x80\x02c_codecs\nencode\nq\x00" + text + b"\x8c\x06latin1q\x02" + b"h\x00h\x01h\x02\x86R" * 5000 + b"."


@pytest.mark.parametrize(
    "content",
    [
        claiming((10**12,)),
        Reduced(MAKE_ARRAY, (np.ndarray, (10**12,), b"b")),
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
        b"\x80\x04B\xff\xff\xff\xffabc.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**50) + b"abc.",
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.",
        b"\x80\x04\x8b\xff\xff\xff\x7fabc.",
        b"\x80\x04}r\xff\xff\xff\xff.",
        bomb_of_shared_bytes(),
        bomb_of_shared_modules(),
        bomb_of_encoded_text(),
        b"\x80\x04" + b")\x85" * 50_000 + b".",
        b"\x80\x04" + b"(" * 100_000 + b".",
        b"\x80\x04" + b"}" + b"2" * (MOST_INSTRUCTIONS + 1) + b".",
    ],
    ids=range(14),
)
def test_a_small_file_takes_little_memory(refusal, content):
    tracemalloc.start()
    try:
        refusal(content)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_more_than_a_pickle_of_weights_can_have(tmp_path):
    path = tmp_path / "large.pickle"
    with path.open("wb") as stream:
        stream.truncate(9 * 10**9)  # takes no room on the disk
    with pytest.raises(DataError, match=r"has 9.0 GB; the most that is read is 8 GB"):
        read_weights(path)


@settings(max_examples=400)
@given(data=st.data())
def test_whatever_is_changed_it_is_an_error_or_weights(tmp_path_factory, data):
    changed = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(("set", "insert", "delete")))
        if kind == "delete":
            del changed[place : place + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            changed[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            changed[place] = data.draw(st.integers(0, 255))
        if not changed:
            break
    path = tmp_path_factory.getbasetemp() / "changed.pickle"
    path.write_bytes(changed)
    try:
        arrays = read_weights(path).arrays.values()
    except ModelError:
        return
    assert all(array.read().shape == array.shape for array in arrays)
