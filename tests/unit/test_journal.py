import json
import math
from pathlib import Path

import pytest

from perceivers.errors import TrainingError
from perceivers.training.journal import Journal, draw_curves, read_lines


def write(folder: Path, steps, first_step: int = 0, group: str = "train", **values: float) -> None:
    journal = Journal(folder, first_step)
    for step in steps:
        journal.write(step, group, {"loss": 1 / (step + 1), **values})
    journal.close()


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_lines(folder / "metrics.jsonl")]


def test_lines_hold_what_was_written(tmp_path):
    write(tmp_path, [1, 2], lr=0.1)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == [
        {"step": 1, "group": "train", "loss": 1 / 2, "lr": 0.1},
        {"step": 2, "group": "train", "loss": 1 / 3, "lr": 0.1},
    ]


def test_each_line_is_on_the_disk_at_once(tmp_path):
    journal = Journal(tmp_path, 0)
    journal.write(1, "train", {"loss": 1.0})
    assert steps(tmp_path) == [1]
    journal.close()


def test_resuming_takes_back_what_was_done_after_the_checkpoint(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, [6, 7, 8], first_step=5, again=1.0)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line.get("again") for line in read_lines(tmp_path / "metrics.jsonl")] == [None] * 5 + [1.0] * 3


def test_beginning_again_takes_back_all(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, [1], first_step=0)
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("torn", [b'{"step": 4, "gro', b"{", b'{"step": 4, "group": "train"}'])
def test_a_line_torn_by_a_kill_is_left_out(tmp_path, torn):
    write(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    assert steps(tmp_path) == [1, 2, 3]
    write(tmp_path, [4], first_step=3)
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("damage", ["not json", "[1]", '{"group": "train"}', '{"step": "x", "group": "train"}', "3"])
def test_a_damaged_line_is_named(tmp_path, damage):
    write(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], damage, *lines[1:]]) + "\n")
    with pytest.raises(TrainingError) as caught:
        Journal(tmp_path, 3)
    assert str(caught.value).startswith(f"{path}, line 2: this is not a line of a run's metrics")
    assert damage in path.read_text(), "nothing is lost"


def test_no_file_is_no_lines(tmp_path):
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_what_is_no_number_is_null_and_drawn_nowhere(tmp_path):
    """Strict JSON: any reader can read it."""
    write(tmp_path, [1, 2], group="validation", r2=math.nan, mae=math.inf)
    text = (tmp_path / "metrics.jsonl").read_text()
    for line in text.splitlines():
        strict = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert strict["r2"] is None
        assert strict["mae"] is None
    draw_curves(tmp_path)


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, [1, 2, 3], odd=math.nan)
    write(tmp_path, [3, 4], first_step=2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(step, pytest.approx(1 / (step + 1))) for step in (1, 2, 3, 4)]


class TestCurves:
    def lines(self, folder: Path) -> None:
        journal = Journal(folder, 0)
        for step in range(1, 9):
            journal.write(step, "train", {"loss": 1 / step, "lr": 0.1})
            if step % 4 == 0:
                journal.write(
                    step, "validation", {"loss": 1.0, "label.accuracy": 0.5, "label.top5": 0.9, "score.mae": 2.0}
                )
        journal.close()

    def test_a_picture(self, tmp_path):
        self.lines(tmp_path)
        path = draw_curves(tmp_path)
        assert path == tmp_path / "curves.png"
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_what_is_drawn(self, tmp_path, monkeypatch):
        from matplotlib.axes import Axes

        drawn = {}
        plot = Axes.plot

        def watched(self, steps, values, *style, label, **kwargs):
            drawn[label] = (list(steps), list(values))
            return plot(self, steps, values, *style, label=label, **kwargs)

        monkeypatch.setattr(Axes, "plot", watched)
        self.lines(tmp_path)
        draw_curves(tmp_path)
        assert drawn["train"] == (list(range(1, 9)), [1 / step for step in range(1, 9)])
        assert drawn["validation"] == ([4, 8], [1.0, 1.0])
        assert drawn["label.accuracy"] == ([4, 8], [0.5, 0.5])
        assert "lr" not in drawn
        assert "label.top5" not in drawn, "only the headline scores, where there is one"

    def test_errors_are_drawn_where_there_is_nothing_else(self, tmp_path):
        write(tmp_path, [1, 2], group="validation", **{"score.mae": 2.0})
        assert draw_curves(tmp_path).stat().st_size > 1000

    def test_nothing_written_yet(self, tmp_path):
        assert draw_curves(tmp_path).stat().st_size > 1000

    def test_pyplot_knows_of_no_figure(self, tmp_path):
        import matplotlib.pyplot as plt

        before = plt.get_fignums()
        self.lines(tmp_path)
        draw_curves(tmp_path)
        assert plt.get_fignums() == before
