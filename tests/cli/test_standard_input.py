"""`perceivers predict MODEL -`: JSON lines in, one answer a line, as soon as it is known."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = [sys.executable, "-m", "perceivers"]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


class TestStandardInput:
    GOOD = '{"facts": {"age": 30, "height": 170}}'
    NO_PHOTO = "  photo: absent in 2 samples\n"

    def test_one_answer_a_line(self, call, run):
        text = f'{self.GOOD}\n\n{{"facts": [30, null]}}\r\n{self.GOOD}'
        done = call("predict", run, "-", stdin=text)
        assert done.code == 0
        assert [row["row"] for row in lines(done.out)] == [1, 3, 4]
        assert lines(done.out)[0]["label"] == lines(done.out)[2]["label"]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (b"{", "standard input, line 2: this is not JSON: Expecting property name"),
            (b"[1]", "standard input, line 2: a line must be a JSON object: column → cell."),
            (b'{"agee": 1}', "standard input, line 2: holds no column of any input: "),
            (
                b'{"facts": {"age": "old"}}',
                "standard input, line 2, row 1, column 'age': 'old' is not a number.",
            ),
            (
                b'{"picture": "gone.png"}',
                "standard input, line 2, row 1, column 'picture': image file 'gone.png' does not",
            ),
            (b"{}", "standard input, line 2: holds no column of any input: "),
            (b'{"photo": "caf\xe9"}', "standard input, line 2: this is not UTF-8: byte 14 is 0xe9."),
            (b"[" * 100_000, "standard input, line 2: this is not JSON: it is nested too deep."),
        ],
    )
    def test_a_bad_line(self, call, run, line, said):
        text = self.GOOD.encode() + b"\n" + line + b"\n" + self.GOOD.encode() + b"\n"
        done = call("predict", run, "-", stdin=text)
        rows = lines(done.out)
        assert [row["row"] for row in rows] == [1, 2, 3]
        assert rows[1]["error"].startswith(said)
        assert ("label" in rows[0], "label" in rows[2]) == (True, True)
        assert (done.code, done.err) == (0, f"{self.NO_PHOTO}1 of 3 rows could not be read; each has an error.\n")
        strict = call("predict", run, "-", "--strict", stdin=text)
        assert strict.code == 1
        assert strict.err.startswith(f"error: {said}")

    def test_to_a_file(self, call, run):
        done = call("predict", run, "-", "--out", "a.jsonl", stdin=f"{self.GOOD}\n{self.GOOD}\n")
        assert (done.code, done.out, done.err) == (0, "", f"{self.NO_PHOTO}2 rows: a.jsonl\n")
        assert len(lines(Path("a.jsonl").read_text())) == 2

    @pytest.mark.parametrize("out", [[], ["--out", "a.csv"]])
    def test_nothing_is_what_an_empty_table_is(self, call, run, out):
        done = call("predict", run, "-", *out, stdin="\n")
        said = "error: standard input: the table is empty: it holds no rows. Give it at least one row.\n"
        assert (done.code, done.out, done.err, Path("a.csv").exists()) == (1, "", said, False)

    def test_a_table_of_another_sort(self, call, run):
        done = call("predict", run, "-", stdin="age,height\n30,170\n")
        assert done.code == 1
        assert lines(done.out)[0]["error"].endswith(
            "Standard input takes JSON lines; give a table of another sort as a file."
        )

    def test_each_answer_comes_before_the_next_line(self, run):
        """A conversation: whoever writes a line can wait for its answer. And a reader may go away: `| head`."""
        with subprocess.Popen(
            [*PROGRAM, "predict", str(run), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            assert program.stderr is not None
            for number in (1, 2):
                program.stdin.write(self.GOOD + "\n")
                program.stdin.flush()
                assert json.loads(program.stdout.readline())["row"] == number
            program.stdout.close()
            program.stdin.write(f"{self.GOOD}\n" * 10)
            program.stdin.close()
            said = program.stderr.read()
        assert (program.returncode, said) == (0, "")


def test_a_pipe_that_closes_under_a_long_answer(run, trained):
    """`perceivers predict … | head -1` when all answers are there already."""
    command = " ".join([*(f"'{part}'" for part in PROGRAM), "predict", str(run), str(trained / "people.csv")])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_a_model_directory_may_be_moved(call, run, trained, tmp_path):
    shutil.copytree(run / "model", tmp_path / "elsewhere")
    assert call("predict", "elsewhere", trained / "people.csv").out == call("predict", run, trained / "people.csv").out
