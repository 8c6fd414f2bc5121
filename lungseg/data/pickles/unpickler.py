"""Read a pickle without running it.

A pickle is a program for a small stack machine. Most instructions stack or group plain values; a few import
what they name and call it, which is how opening a file can start a program. This machine keeps the plain
ones. A name must be on the caller's list, and nothing is ever called: what the file asks for is written down
as a `PickledObject`, and the caller decides what it means. Python's `pickletools` describes every instruction; the
protocols are those of PEP 307 (2), PEP 3154 (4) and PEP 574 (5).
"""

import pickle
import pickletools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

# A table of a thousand slices takes about 100,000 instructions. The bound keeps a hostile file, in which a
# single byte can ask for an empty dict of 64 bytes, from filling the memory.
MAX_STEPS = 5_000_000


class RefusedError(ValueError):
    """One sentence that says why a file was not read."""


@dataclass(frozen=True)
class Name:
    """A class or function that the file names: the caller's word for it, never the thing itself."""

    word: str


class PickledObject:
    """What the file asked for, written down: "call `name` with `args`", then "give it `state`"."""

    __slots__ = ("name", "args", "state")

    def __init__(self, name: str, args: tuple):
        self.name, self.args, self.state = name, args, None


def unpickle(stream: BinaryIO, names: Mapping[tuple[str, str], str], *, limit: int) -> Any:
    """Read one pickle, protocol 2 to 5, from the start of `stream` to its end.

    Args:
        stream: buffered binary file.
        names: what the file may name, (module, name) -> the caller's word for it. All else is refused.
        limit: the stream holds no more bytes than this, so a text or buffer that claims more is refused.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict with str keys, `Name` and `PickledObject`, nested.
        Buffers (`bytearray` too) come as bytes, read once and never copied.

    Raises:
        RefusedError: the file names something else, uses another instruction, or is damaged.
    """
    if stream.read(1) != pickle.PROTO:
        raise RefusedError("this is not a pickle of protocol 2 to 5")
    if (protocol := stream.read(1)) not in (b"\2", b"\3", b"\4", b"\5"):
        found = protocol[0] if protocol else "none"
        raise RefusedError(f"this pickle has protocol {found}, but 2 to 5 are read here")
    machine = Machine(stream, names, limit)
    try:
        for _ in range(MAX_STEPS):
            code = machine.exactly(1)
            if code == pickle.STOP:
                break
            machine.step(code)
        else:
            raise RefusedError(f"the pickle has more than {MAX_STEPS} instructions, which no table needs")
        value = machine.stack.pop()
    except (IndexError, KeyError, UnicodeDecodeError):  # nothing to pop, nothing memoized there, not UTF-8
        raise RefusedError(f"the pickle is damaged before byte {stream.tell()}") from None
    if machine.stack or stream.read(1):  # at the end of a .gz, this read also compares the checksum
        raise RefusedError("something is left over after the end of the pickle, so the file is damaged")
    return value


class Machine:
    """The stack, the marks in it, and the memo (objects that the file refers to again)."""

    def __init__(self, stream: BinaryIO, names: Mapping[tuple[str, str], str], limit: int):
        self.stream, self.names, self.limit = stream, names, limit
        self.stack: list = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}  # the file chooses the keys; a list would grow to the largest

    def step(self, code: bytes) -> None:
        """Carry out one instruction."""
        if code in LITERALS:
            self.stack.append(LITERALS[code](self))
        elif code in ACTIONS:
            ACTIONS[code](self)
        else:
            known = pickletools.code2op.get(code.decode("latin-1"))
            what = f"the instruction {known.name}" if known else f"the byte {code!r} as an instruction"
            raise RefusedError(f"the pickle has {what}, which no table of slices needs, so nothing was run")

    # Reading the stream

    def exactly(self, count: int) -> bytes:
        data = self.stream.read(count) if count <= self.limit else b""
        if len(data) < count:
            raise RefusedError(f"the file ends too early: {count} bytes were announced, {len(data)} are there")
        return data

    def integer(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.exactly(size), "little", signed=signed)

    def counted(self, size: int) -> bytes:
        """A length of `size` bytes, and that many bytes."""
        return self.exactly(self.integer(size))

    def text(self, size: int) -> str:
        return str(self.counted(size), "utf-8", "surrogatepass")

    def line(self) -> str:
        return str(self.stream.readline(1000), "utf-8").removesuffix("\n")

    # Grouping values

    def above_mark(self) -> list:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            found, wanted = type(self.stack[-1]).__name__, kind.__name__
            raise RefusedError(f"the pickle is damaged: a value of type {found} stands where a {wanted} should")
        return self.stack[-1]

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def make_tuple(self, size: int) -> None:
        values = [self.stack.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(values)))

    def add_to_list(self, values: list) -> None:
        self.top(list).extend(values)

    def add_to_dict(self, values: list) -> None:
        """`values` alternates keys and values."""
        target = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=False):
            if type(key) is not str:  # the hash of a tuple nested a million deep would overflow the C stack
                raise RefusedError(f"a key in the pickle is of type {type(key).__name__}, but text was expected")
            target[key] = value

    # Names and what is asked of them

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise RefusedError("the pickle is damaged: it names something that is not text")
        if (module, name) not in self.names:
            raise RefusedError(
                f"the pickle names {ascii(f'{module}.{name}'[:200])[1:-1]}, which no table of slices needs, "
                f"so nothing was run; get the file from its publisher, or save it with plain columns"
            )
        self.stack.append(Name(self.names[module, name]))

    def note(self) -> None:
        """REDUCE and NEWOBJ: the machine of Python's `pickle` calls something here."""
        args = self.top(tuple)
        del self.stack[-1]
        self.stack[-1] = PickledObject(self.top(Name).word, args)

    def note_state(self) -> None:
        """BUILD: the machine of Python's `pickle` runs `__setstate__` here, or sets attributes by name."""
        state = self.stack.pop()
        self.top(PickledObject).state = state


# What an instruction pushes.
LITERALS = {
    pickle.NONE: lambda m: None,
    pickle.NEWTRUE: lambda m: True,
    pickle.NEWFALSE: lambda m: False,
    pickle.BININT: lambda m: m.integer(4, signed=True),
    pickle.BININT1: lambda m: m.integer(1),
    pickle.BININT2: lambda m: m.integer(2),
    pickle.LONG1: lambda m: int.from_bytes(m.counted(1), "little", signed=True),
    pickle.BINFLOAT: lambda m: struct.unpack(">d", m.exactly(8))[0],
    pickle.SHORT_BINUNICODE: lambda m: m.text(1),
    pickle.BINUNICODE: lambda m: m.text(4),
    pickle.BINUNICODE8: lambda m: m.text(8),
    pickle.SHORT_BINBYTES: lambda m: m.counted(1),
    pickle.BINBYTES: lambda m: m.counted(4),
    pickle.BINBYTES8: lambda m: m.counted(8),
    pickle.BYTEARRAY8: lambda m: m.counted(8),
    pickle.EMPTY_LIST: lambda m: [],
    pickle.EMPTY_DICT: lambda m: {},
    pickle.EMPTY_TUPLE: lambda m: (),
    pickle.BINGET: lambda m: m.memo[m.integer(1)],
    pickle.LONG_BINGET: lambda m: m.memo[m.integer(4)],
}

# What an instruction does to the stack or the memo.
ACTIONS = {
    pickle.FRAME: lambda m: m.exactly(8),  # how far to read ahead; the stream is buffered anyway
    pickle.MARK: Machine.mark,
    pickle.TUPLE: lambda m: m.stack.append(tuple(m.above_mark())),
    pickle.TUPLE1: lambda m: m.make_tuple(1),
    pickle.TUPLE2: lambda m: m.make_tuple(2),
    pickle.TUPLE3: lambda m: m.make_tuple(3),
    pickle.APPEND: lambda m: m.add_to_list([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.add_to_list(m.above_mark()),
    pickle.SETITEM: lambda m: m.add_to_dict([m.stack.pop(-2), m.stack.pop()]),
    pickle.SETITEMS: lambda m: m.add_to_dict(m.above_mark()),
    pickle.MEMOIZE: lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    pickle.BINPUT: lambda m: m.memo.__setitem__(m.integer(1), m.stack[-1]),
    pickle.LONG_BINPUT: lambda m: m.memo.__setitem__(m.integer(4), m.stack[-1]),
    pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.name(m.stack.pop(-2), m.stack.pop()),
    pickle.REDUCE: Machine.note,
    pickle.NEWOBJ: Machine.note,
    pickle.BUILD: Machine.note_state,
}
