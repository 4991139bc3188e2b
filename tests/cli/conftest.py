"""What all tests of the command line share: a command run in this process, and the run that it is about."""

import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from perceivers.cli.main import main


class Done(NamedTuple):
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd, monkeypatch, tmp_path):
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: Any, stdin: str | bytes = "") -> Done:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        with pytest.raises(SystemExit) as done:
            main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Done(int(done.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def run(trained) -> Path:
    return trained / "run"
