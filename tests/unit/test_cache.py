import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivers.data.cache import cache_file, cache_folder, cached_arrays, is_cached, noted_sha256, sha256
from perceivers.errors import DataError

ARRAYS = {"values": np.arange(12, dtype=np.float32).reshape(3, 4), "label": np.array([1, 0, 1], dtype=np.int8)}


def never() -> dict[str, np.ndarray]:
    raise AssertionError("made again")


def test_the_folder_is_the_environment_variable_or_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.delenv("PERCEIVERS_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "perceivers"


def test_arrays_are_made_once_and_then_read(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path / "new"))
    said = []
    assert not is_cached("toy")
    cached_arrays("toy", lambda: ARRAYS, said.append)
    again = cached_arrays("toy", never, said.append)
    assert is_cached("toy")
    assert not said
    assert sha256(cache_file("toy").read_bytes()) == noted_sha256("toy")
    assert list(again) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


def test_the_same_arrays_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path))
    cached_arrays("one", lambda: ARRAYS, print)
    cached_arrays("two", lambda: dict(reversed(ARRAYS.items())), print)
    assert cache_file("one").read_bytes() == cache_file("two").read_bytes()


@settings(max_examples=30, deadline=None)
@given(place=st.integers(min_value=0), change=st.integers(1, 255), cut=st.booleans(), note=st.booleans())
def test_any_damage_is_found_and_repaired(place, change, cut, note):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERCEIVERS_CACHE", folder)
        cached_arrays("toy", lambda: ARRAYS, print)
        whole = cache_file("toy").read_bytes()
        path = cache_file("toy").with_name("toy.npz.sha256") if note else cache_file("toy")
        content = bytearray(path.read_bytes())
        place %= len(content) - 1  # the last byte of the note is its newline, which says nothing
        if cut:
            del content[place:]
        else:
            content[place] ^= change
        path.write_bytes(content)
        said = []
        cached_arrays("toy", lambda: ARRAYS, said.append)
        assert len(said) == 1
        assert str(cache_file("toy")) in said[0]
        assert cache_file("toy").read_bytes() == whole
        cached_arrays("toy", never, never)


def test_a_cache_without_its_note_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path))
    cached_arrays("toy", lambda: ARRAYS, print)
    (tmp_path / "toy.npz.sha256").unlink()
    assert not is_cached("toy")
    said = []
    cached_arrays("toy", lambda: ARRAYS, said.append)
    assert "noted was nothing" in said[0]


def test_when_making_fails_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path))
    with pytest.raises(AssertionError, match="made again"):
        cached_arrays("toy", never, print)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_says_which_and_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write .*toy\.npz: .* set PERCEIVERS_CACHE to a folder"):
        cached_arrays("toy", lambda: ARRAYS, print)


def test_a_cache_that_cannot_be_read_says_which(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEIVERS_CACHE", str(tmp_path))
    cache_file("toy").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*toy\.npz: Is a directory"):
        cached_arrays("toy", lambda: ARRAYS, print)
