"""The demo says what it did, in a last line that can be relied upon."""

import re

from perceivers.cli import demo
from perceivers.plain_yaml import read_yaml, yaml_text


def test_the_demo_trains_scores_predicts_and_says_so(tmp_path, capsys):
    recipe = read_yaml(demo.RECIPE.read_text(encoding="utf-8"), "digits.yaml")
    recipe["training"] = {"steps": 2}
    path = tmp_path / "short.yaml"
    path.write_text(yaml_text(recipe))
    run = tmp_path / "run"
    demo.main(path, run)
    said = capsys.readouterr().out
    assert re.fullmatch(r"demo: accuracy 0\.\d{3} in \d+ s", said.splitlines()[-1])
    images = sorted((run / "images").iterdir())
    assert [image.name for image in images] == ["digit-1.png", "digit-2.png", "digit-3.png"]
    for line in (
        *images,
        run / "curves.png",
        run / "evaluation-test" / "confusion-label.png",
        run / "model" / "card.md",
    ):
        assert line.is_file()
        assert str(line) in said
