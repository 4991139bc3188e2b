"""A reader of pickles that executes nothing.

A pickle is a program for a small machine with a stack. Python's own machine imports and calls what the program names;
this one knows the instructions for plain values, and in place of an import it looks into a list such as
`pickled.PERMITTED`, whose entries only keep what they are given. All else is an error that names it.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from perceivers.bounded import GB, check_bounded
from perceivers.errors import ModelError
from perceivers.models.convert.pickled import PERMITTED, Maker, PickledArray, PickledType, Unread
from perceivers.models.convert.stored import damaged, quoted, refused

# The largest published file has 0.8 GB; a checkpoint of training holds two moments more.
MOST_BYTES = 8 * GB
# The largest published file has about 14,000; more than this would take minutes and fill the memory.
MOST_INSTRUCTIONS = 1_000_000
_NEWEST_PROTOCOL = 5

_INSTRUCTIONS = {instruction.code: instruction for instruction in pickletools.opcodes}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_WHOLE = ("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
_LITERALS = frozenset((*_WHOLE, *_TEXTS, *_BYTES))
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
# What a reader may expect by name, in the words of the error.
_REFUSED = {
    "EMPTY_SET": "a set",
    "FROZENSET": "a set",
    "ADDITEMS": "a set",
    "PERSID": "a persistent id",
    "BINPERSID": "a persistent id",
    "EXT1": "an extension code",
    "EXT2": "an extension code",
    "EXT4": "an extension code",
    "INST": "an instance of a class",
    "OBJ": "an instance of a class",
    "NEWOBJ_EX": "an instance of a class",
    "NEXT_BUFFER": "a buffer that is kept elsewhere",
    "READONLY_BUFFER": "a buffer that is kept elsewhere",
}


@dataclass(frozen=True)
class Dialect:
    """What pickles of one sort may say.

    permitted: names, and what stands in for each. unread: what stands in for all others, whose contents are read over;
    None: they are refused. persistent: what a persistent id means; None: such are refused. keys: types of the keys of
    mappings, none of which holds others (to hash a tuple in a tuple, a million deep, ends the process); for one of
    another type stands an `Unread`, or, where nothing may be unread, an error. attributes: mappings may have some, as
    torch's state dicts, which are read over.
    """

    permitted: Mapping[tuple[str, str], Maker]
    unread: Callable[[str, str], Maker] | None = None
    persistent: Callable[[Any], Any] | None = None
    keys: tuple[type, ...] = (str,)
    attributes: bool = False


HAIKU = Dialect(PERMITTED)


def read_pickle(path: Path) -> Any:
    """What the pickle at `path` holds, of plain values, `PickledArray` and `Inert`. No code is run.

    Raises `ModelError` that names what is not read, or says that the file is truncated or damaged.
    """
    check_bounded(path, MOST_BYTES, f"'{path}'")
    with path.open("rb") as stream:
        return read_stream(path, stream, path.stat().st_size, HAIKU)


def read_stream(path: Path, stream: IO[bytes], size: int, dialect: Dialect) -> Any:
    """What the pickle of `size` bytes in `stream` holds, which is of the file at `path`; as `read_pickle`."""
    return _Machine(path, _Bounded(stream, size), dialect).run()


class _Bounded:
    """A file that is never asked for more than it has: pickles name lengths that they need not hold."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream = stream
        self.left = size

    def read(self, count: int) -> bytes:
        found = self.stream.read(min(count, self.left))
        self.left -= len(found)
        return found

    def readline(self) -> bytes:
        found = self.stream.readline(self.left)
        self.left -= len(found)
        return found


class _Machine:
    def __init__(self, path: Path, stream: _Bounded, dialect: Dialect) -> None:
        self.path = path
        self.dialect = dialect
        self.stream: Any = stream
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies under each open mark
        self.memo: dict[int, Any] = {}
        self.bytes_left = 2 * stream.left  # that may be made of text

    def run(self) -> Any:
        try:
            for _ in range(MOST_INSTRUCTIONS):
                code = self.stream.read(1)
                if not code:
                    raise ValueError("it ends before its pickle does")
                instruction = _INSTRUCTIONS.get(code.decode("latin1"))
                if instruction is None:
                    raise ValueError(f"byte {code[0]} is no instruction")
                if instruction.name == "STOP":
                    return self.stack.pop()
                self._do(instruction)
        except ModelError:
            raise
        except (ValueError, IndexError, KeyError) as error:
            # What IndexError and KeyError say is of this machine's lists.
            why = error if isinstance(error, ValueError) else ValueError("it asks for what is not there")
            raise damaged(self.path, "it is no pickle, or is truncated or damaged", why) from None
        raise refused(self.path, f"it has more than {MOST_INSTRUCTIONS:,} instructions; weights need far fewer.")

    def _do(self, instruction: pickletools.OpcodeInfo) -> None:
        name = instruction.name
        known = name in _KNOWN or (name in _OF_UNREAD and self.dialect.unread)
        if not known and not (name == "BINPERSID" and self.dialect.persistent):
            what = _REFUSED.get(name, f"the instruction {name}")
            raise refused(self.path, f"it holds {what}, which weights do not need. Nothing in it was executed.")
        argument: Any = None
        if name == "GLOBAL":
            # pickletools would undo escapes in the names, which pickles do not have.
            argument = tuple(self.stream.readline().removesuffix(b"\n").decode() for _ in range(2))
        elif instruction.arg is not None:
            argument = instruction.arg.reader(self.stream)
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack.append(tuple(reversed([stack.pop() for _ in range(count)])))
        elif name in _PUTS:
            self.memo[int(argument)] = stack[-1]
        elif name in _GETS:
            stack.append(self.memo[int(argument)])
        else:
            _ACTIONS[name](self, argument)

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark, which ends here."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def protocol(self, argument: Any) -> None:
        if argument > _NEWEST_PROTOCOL:
            raise ValueError(f"protocol {argument}; the newest that is read is {_NEWEST_PROTOCOL}")

    def frame(self, argument: Any) -> None:
        pass  # says how much to read ahead

    def mark(self, argument: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self, argument: Any) -> None:
        self.stack.pop()

    def pop_mark(self, argument: Any) -> None:
        self.marked()

    def duplicate(self, argument: Any) -> None:
        self.stack.append(self.stack[-1])

    def memoize(self, argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def make_list(self, argument: Any) -> None:
        items = self.marked()
        self.stack.append(items)

    def make_tuple(self, argument: Any) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def make_dict(self, argument: Any) -> None:
        items = self.marked()
        self.stack.append({})
        self._set(items)

    def append(self, argument: Any) -> None:
        self._extend([self.stack.pop()])

    def appends(self, argument: Any) -> None:
        self._extend(self.marked())

    def set_item(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def set_items(self, argument: Any) -> None:
        self._set(self.marked())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], Unread):
            return
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for something that is no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], Unread):
            return
        keys, values = [self._key(key) for key in items[::2]], items[1::2]
        if not isinstance(self.stack[-1], dict) or len(keys) != len(values):
            raise ValueError("items for something that is no mapping")
        self.stack[-1].update(zip(keys, values, strict=True))

    def _key(self, key: Any) -> Any:
        if type(key) in self.dialect.keys:
            return key
        if self.dialect.unread is None:
            raise ValueError("items for something that is no mapping from text")
        # Known by what it is, not by what it holds.
        return key if isinstance(key, Unread) else Unread(type(key).__name__)

    def named(self, argument: Any) -> None:
        self._name(*argument)

    def named_on_stack(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        found = self.dialect.permitted.get((module, name))
        if found is None and self.dialect.unread is not None:
            found = self.dialect.unread(module, name)
        if found is None:
            raise refused(
                self.path,
                f"it names {quoted(f'{module}.{name}')}, and may name only what arrays and mappings are made of. "
                "Nothing in it was executed. If you trust where it comes from, save its arrays alone and read that.",
            )
        self.stack.append(found)

    def persistent(self, argument: Any) -> None:
        assert self.dialect.persistent is not None, "else it is refused"
        self.stack.append(self.dialect.persistent(self.stack.pop()))

    def call(self, argument: Any) -> None:
        arguments, make = self.stack.pop(), self.stack.pop()
        if isinstance(make, Unread):
            # Such as a class within a class, which pickles as a call of getattr.
            self.stack.append(Unread(make.name, arguments))
            return
        # Of all that a stack can hold, only what the dialect has put there can be called.
        if not callable(make) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no name")
        made = make(arguments)
        if isinstance(made, bytes):
            self.bytes_left -= len(made)
            if self.bytes_left < 0:
                raise ValueError("one text made into bytes again and again")
        self.stack.append(made)

    def call_with_names(self, argument: Any) -> None:
        self.stack.pop()
        self.call(argument)

    def make_set(self, argument: Any) -> None:
        self.stack.append(Unread("set"))

    def make_marked_set(self, argument: Any) -> None:
        self.marked()
        self.stack.append(Unread("frozenset"))

    def set_state(self, argument: Any) -> None:
        state = self.stack.pop()
        if self.dialect.attributes and isinstance(self.stack[-1], dict):
            return
        if not isinstance(self.stack[-1], (PickledArray, PickledType, Unread)):
            raise ValueError("a state for something that is no array")
        self.stack[-1].state = state


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "FRAME": _Machine.frame,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "MEMOIZE": _Machine.memoize,
    "LIST": _Machine.make_list,
    "TUPLE": _Machine.make_tuple,
    "DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.named,
    "STACK_GLOBAL": _Machine.named_on_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.set_state,
    "BINPERSID": _Machine.persistent,
    "EMPTY_SET": _Machine.make_set,
    "FROZENSET": _Machine.make_marked_set,
    "ADDITEMS": _Machine.appends,
    "NEWOBJ_EX": _Machine.call_with_names,
}
# Where things may be unread, whatever they are made of.
_OF_UNREAD = frozenset(("EMPTY_SET", "FROZENSET", "ADDITEMS", "NEWOBJ_EX"))
_KNOWN = frozenset((*_CONSTANTS, *_LITERALS, *_EMPTY, *_TUPLES, *_PUTS, *_GETS, *_ACTIONS)) - _REFUSED.keys()
