import io

import pytest

from perceivers.training import reporter as module
from perceivers.training.reporter import Reporter, clock, shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch):
    """A clock that the test turns."""
    time = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: time[0])
    return time


def test_plain_lines_when_piped(now):
    stream = io.StringIO()
    reporter = Reporter(stream=stream)
    reporter.note("train: 24 samples")
    for done in range(100):
        now[0] += 1
        reporter.advance("training", done + 1, 200, lambda done=done: f"loss {done}")
    reporter.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 24 samples"
    # Begun at 101 with the first step; one line in ten seconds and no more.
    assert lines[1] == "training: 11/200  loss 10  3 min left"
    assert len(lines) == 1 + 9
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_what_ends_soon_says_nothing(now):
    stream = io.StringIO()
    reporter = Reporter(stream=stream)
    for done in range(9):
        now[0] += 1
        reporter.advance("reading", done, 9)
    assert stream.getvalue() == ""


def test_each_label_has_a_clock_of_its_own(now):
    stream = io.StringIO()
    reporter = Reporter(stream=stream)
    reporter.advance("reading", 1, 10)
    now[0] += 11
    reporter.advance("training", 0, 10)
    assert stream.getvalue() == ""
    now[0] += 20
    reporter.advance("training", 5, 10)
    assert stream.getvalue() == "training: 5/10  20 s left\n"


def test_each_line_comes_at_once(now):
    class Flushed(io.StringIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    stream = Flushed()
    Reporter(stream=stream).note("hello")
    assert stream.flushes


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["piped", "terminal"])
def test_quiet_says_nothing(stream, now):
    reporter = Reporter(quiet=True, stream=stream)
    reporter.note("hello")
    for done in range(30):
        now[0] += 5
        reporter.advance("training", done, 30)
    reporter.close()
    assert stream.getvalue() == ""


class TestTerminal:
    @pytest.fixture(autouse=True)
    def _colours(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)

    def test_a_bar_is_drawn_five_times_a_second_and_at_the_end(self, now, monkeypatch):
        drawn, asked = [], []
        monkeypatch.setattr(Reporter, "_draw", lambda self, label, done, total, detail: drawn.append((done, detail)))

        def detail() -> str:
            asked.append(1)
            return f"loss {done}"

        reporter = Reporter(stream=Terminal())
        for done in range(1, 21):
            reporter.advance("training", done, 20, detail)
            now[0] += 0.0625
        assert drawn == [(done, f"loss {done}") for done in (1, 5, 9, 13, 17, 20)]
        assert len(asked) == len(drawn), "what is not shown is not made"

    def test_a_bar(self, now):
        stream = Terminal()
        reporter = Reporter(stream=stream)
        reporter.advance("training", 3, 10, lambda: "loss 0.5")
        reporter.note("step 3: best")
        now[0] += 1
        reporter.advance("training", 4, 10, lambda: "loss 0.4")
        reporter.close()
        text = stream.getvalue()
        assert "\x1b[" in text
        assert "step 3: best" in text
        assert "4/10" in text
        assert "loss 0.4" in text

    def test_a_new_label_begins_a_new_bar(self):
        reporter = Reporter(stream=Terminal())
        reporter.advance("reading", 3, 10)
        first = reporter._bar
        reporter.advance("training", 1, 10)
        assert reporter._bar is not first
        assert first.finished is False
        assert not first.live.is_started, "the bar before it is stopped"
        reporter.close()
        reporter.close()

    def test_notes_are_printed_as_they_are(self):
        """Brackets and colons mean nothing, and a long path stays in one piece."""
        stream = Terminal()
        text = f"model: runs/[bold]x/:smile:/{'long/' * 60}model"
        Reporter(stream=stream).note(text)
        assert stream.getvalue() == text + "\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (720, "12 min"),
        (5999, "100 min"),
        (6000, "1 h 40 min"),
        (11_100, "3 h 05 min"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_shown():
    assert shown({"accuracy": 0.97123, "samples": 12}) == "accuracy 0.9712  samples 12"
