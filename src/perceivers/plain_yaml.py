"""YAML as plain data: the types of YAML 1.2, nothing that refers or runs; what is written reads back exactly."""

import re
from typing import Any

import yaml

from perceivers.errors import SpecError

_TAG = "tag:yaml.org,2002:"
# YAML 1.2, core schema. PyYAML's own are of YAML 1.1, where `no` is false, 1e-3 is a text and 08 an error.
_FLOAT = re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$")
_BREAKS = re.compile("[\x85\u2028\u2029]")
_TYPES = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


def read_yaml(text: str, where: str) -> Any:
    """The one document in `text`: dicts with text as keys, lists, texts, numbers, True, False and None.

    Aliases and tags are refused, so reading takes no more than the text's own size. Raises `SpecError` headed by
    `where`, with the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        what = error.problem or error.context or str(error)
        raise SpecError(f"{where}: not valid YAML: {line}{what}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{where}: not valid YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise SpecError(f"{where}: not valid YAML: it is nested too deep.") from None


def yaml_text(data: Any, flow: bool | None = False, width: int = 110, unicode: bool = True) -> str:
    """`data` as YAML that `read_yaml` reads back to equal data, in the order of its keys.

    flow: braces and brackets, True everywhere, None for the innermost only. unicode: False writes escapes.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, width=width, default_flow_style=flow)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own name and form

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _fault(event.start_mark, f"the alias *{event.anchor} is not read; write the value out")
        if getattr(event, "tag", None) not in (None, "!"):
            raise _fault(event.start_mark, "tags (!name) are not read; leave it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _fault(key.start_mark, "a key must be a plain text")
            if node.flow_style and key.style is None and ":" in key.value and _is_left_out(value):
                before, after = key.value.split(":", 1)
                raise _fault(key.start_mark, f"'{key.value}' has no blank behind its colon; write '{before}: {after}'")
            if key.value in mapping:
                raise _fault(key.start_mark, f"the key '{key.value}' stands twice")
            mapping[key.value] = self.construct_object(value, deep=deep)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would read as something else than a text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Single quotes would fold YAML 1.1's further line breaks into a blank; only double quotes write them as escapes.
    return dumper.represent_scalar(f"{_TAG}str", text, style='"' if _BREAKS.search(text) else None)


_Dumper.add_representer(str, _represent_text)
for _name, _pattern, _first in _TYPES:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))


def _is_left_out(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None


def _fault(mark: yaml.Mark, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
