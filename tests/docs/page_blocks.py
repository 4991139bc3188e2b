"""Fenced code blocks of a Markdown page, with the line where each begins and the comment that stands before it."""

import re
from dataclasses import dataclass
from pathlib import Path

_COMMENT = re.compile(r"^<!-- (.+) -->$")


@dataclass(frozen=True)
class Block:
    """`marks`: what the HTML comments just before the block say. `line`: of its first line of code, from 1."""

    language: str
    text: str
    line: int
    marks: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order. A block that never ends is an error."""
    found: list[Block] = []
    inside: tuple[str, int] | None = None
    code: list[str] = []
    marks: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if inside is not None:
            if line.rstrip() == "```":
                found.append(Block(inside[0], "\n".join(code) + "\n", inside[1], tuple(marks)))
                inside, code, marks = None, [], []
            else:
                code.append(line)
        elif line.startswith("```"):
            inside = (line[3:].strip(), number + 1)
        elif match := _COMMENT.match(line):
            marks.append(match[1])
        elif line.strip():
            marks = []
    assert inside is None, f"{page.name}: the block at line {inside[1] if inside else 0} has no end"
    return found
