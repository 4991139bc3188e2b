"""Every setting stands in a table of the docs, with the default that it really has."""

from pathlib import Path

import pytest
from settings_tables import fields, reachable, tables

from perceivers.inputs import KINDS as INPUTS
from perceivers.models.presets import PRESETS
from perceivers.outputs import KINDS as OUTPUTS

DOCS = Path(__file__).resolve().parents[2] / "docs"
SETTINGS = reachable()
TABLES = [(page, name, rows) for page in sorted(DOCS.glob("*.md")) for name, rows in tables(page)]


def test_every_settings_class_has_one_table():
    assert sorted(name for _, name, _ in TABLES) == sorted(SETTINGS)


@pytest.mark.parametrize(("page", "name", "rows"), TABLES, ids=[name for _, name, _ in TABLES])
def test_a_table_says_what_is_so(page, name, rows):
    documented = {field: default for field, (default, _) in rows.items()}
    assert documented == fields(SETTINGS[name])
    assert all(len(meaning) > 1 for _, meaning in rows.values())


@pytest.mark.parametrize(("page", "kinds"), [("inputs.md", INPUTS), ("outputs.md", OUTPUTS)])
def test_every_kind_has_a_section(page, kinds):
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    missing = [kind for kind in kinds if f"## {kind}" not in lines]
    assert not missing


def test_every_preset_stands_in_the_table():
    text = (DOCS / "presets.md").read_text(encoding="utf-8")
    table = [line for line in text.split("<!-- presets -->")[1].splitlines() if line.startswith("| `")]
    expected = []
    for preset in PRESETS.values():
        number = preset.paper.rsplit(" ", 1)[1]
        paper = {"2103.03206": "P1", "2107.14795": "P2", "2202.07765": "P3", "2202.10890": "P4"}[number]
        expected.append(f"| `{preset.name}` | {preset.parameters:,} | {paper}, {preset.table} | {preset.result} |")
    assert table == expected
