"""`perceivers presets`: published models, as a list or one in full."""

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from perceivers.models.presets import Preset

MOST_ENTRIES = 20  # longer lists of class names and statistics are left out of the printed spec


def presets(
    name: Annotated[str | None, typer.Argument(help="Show all of this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List the presets, or show all of one."""
    from perceivers.models.presets import PRESETS, preset

    if name is None and as_json:
        print(json.dumps([_facts(each) for each in PRESETS.values()], indent=1, ensure_ascii=False))
    elif name is None:
        _list(list(PRESETS.values()))
    elif as_json:
        print(json.dumps({**_facts(preset(name)), "spec": preset(name).spec}, indent=1, ensure_ascii=False))
    else:
        _show(preset(name))


def _facts(preset: "Preset") -> dict[str, Any]:
    """All that is known of a preset but its spec, and the 10⁹ multiplications and additions that `plan` counts."""
    from perceivers.models.plan import plan

    known = {field.name: getattr(preset, field.name) for field in fields(preset) if field.name != "spec"}
    return {**known, "gflops_counted": round(plan(preset.spec).flops / 1e9, 1)}


def _list(all_presets: "list[Preset]") -> None:
    # Two lines each, not a table: four columns leave no room for words in a narrow window.
    for preset in all_presets:
        # "Title: subtitle, arXiv 2103.03206": the list has room for the number only.
        paper = preset.paper.rpartition(", ")[2]
        print(f"{preset.name}: {preset.parameters:,} parameters, {paper}\n  {preset.result}")
    print("All of one: perceivers presets NAME. What it costs: perceivers plan NAME.")


def _show(preset: "Preset") -> None:
    from perceivers.plain_yaml import yaml_text

    facts = _facts(preset)
    printed, counted = facts.pop("gflops"), facts.pop("gflops_counted")
    for fact, value in facts.items():
        print(f"{fact}: {value:,}" if isinstance(value, int) else f"{fact}: {value}")
    papers = "the paper prints none" if printed is None else f"the paper prints {printed:,}"
    print(f"gflops: {counted:,} counted here, of one sample forward; {papers}")
    print("\n# As the `model` of a recipe:")
    # Through JSON, so that tuples are lists and nothing stands as a YAML alias.
    spec = json.loads(json.dumps(preset.spec))
    left = _take_long_lists(spec)
    print(yaml_text({"model": spec}), end="")
    for place, entries in left.items():
        print(f"# {place}: {len(entries):,} entries, {entries[0]} … {entries[-1]}; --json prints them all.")


def _take_long_lists(data: dict[str, Any], place: str = "") -> dict[str, list[Any]]:
    """Takes the long lists out of nested plain data, and what then is empty; gives them by their dotted places."""
    found = {}
    for key, value in list(data.items()):
        if isinstance(value, dict):
            taken = _take_long_lists(value, f"{place}{key}.")
            found |= taken
            if taken and not value:
                del data[key]
        elif isinstance(value, list) and len(value) > MOST_ENTRIES:
            found[f"{place}{key}"] = data.pop(key)
    return found
