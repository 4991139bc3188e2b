"""What a benchmark writes down says which code it measured."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "record", Path(__file__).resolve().parents[2] / "benchmarks" / "record.py"
)
assert SPEC is not None
record = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(record)


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    for name in ("code.py", "benchmarks/results/old.json"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    return tmp_path


def test_the_commit_and_whether_the_code_differs_from_it(repository):
    short = git(repository, "rev-parse", "--short", "HEAD")
    assert record.commit(repository) == short
    (repository / "benchmarks/results/old.json").write_text("2")
    (repository / "new.txt").write_text("")
    assert record.commit(repository) == short, "results and files that git does not know are not the code"
    (repository / "code.py").write_text("2")
    assert record.commit(repository) == f"{short}+"


def test_without_git_it_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record.commit(tmp_path) == "unknown"


def test_a_result_carries_it(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "commit", lambda: "abc1234+")
    path = record.write("speed", {"seconds": 1}, tmp_path)
    assert json.loads(path.read_text())["commit"] == "abc1234+"
