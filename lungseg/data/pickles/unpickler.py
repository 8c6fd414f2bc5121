"""Read a pickle without running it.

A pickle is a program for a small stack machine. Most instructions push or group plain values. A few import a function
or class by name and call it, which is how opening a file can run any code. The machine here executes only the plain
ones. A name must be on the caller's list, and nothing is ever called: each request is noted as a `PickledObject`, and
the caller decides what it means. Python's `pickletools` documents every instruction; the protocols are described in
PEP 307 (2), PEP 3154 (4) and PEP 574 (5).
"""

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

# A table of a thousand slices takes about 100,000 instructions. The limit stops an untrusted file, in which a single
# byte can ask for an empty dict of 64 bytes, from filling the memory.
MAX_STEPS = 5_000_000
OPCODE_NAMES = {opcode.code: opcode.name for opcode in pickletools.opcodes}


class RefusedError(ValueError):
    """One sentence that says why a file was not read."""


@dataclass(frozen=True)
class Name:
    """A class or function that the file names: the caller's short name for it, never the class or function itself."""

    word: str


class PickledObject:
    """A request of the file, not carried out: "call `name` with `args`", then "set its state to `state`"."""

    __slots__ = ("name", "args", "state")

    def __init__(self, name: str, args: tuple):
        self.name, self.args = name, args
        self.state: Any = None


def unpickle(stream: BinaryIO, names: Mapping[tuple[str, str], str], *, limit: int) -> Any:
    """Read one pickle, protocol 2 to 5, from the start of `stream` to its end.

    Args:
        stream: buffered binary file.
        names: the classes and functions that the file may name, (module, name) -> the caller's short name. All others
            are refused.
        limit: the largest number of bytes that the stream can hold; a text or buffer that claims more is refused.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict with str keys, `Name` and `PickledObject`, nested. Buffers
        (and `bytearray`) become bytes, which are read once and never copied.

    Raises:
        RefusedError: the file names something else, uses another instruction, or is damaged.
    """
    if stream.read(1) != pickle.PROTO:
        raise RefusedError("this is not a pickle of protocol 2 to 5")
    if (protocol := stream.read(1)) not in (b"\2", b"\3", b"\4", b"\5"):
        found = protocol[0] if protocol else "none"
        raise RefusedError(f"expected a pickle of protocol 2 to 5, got protocol {found}")
    machine = Machine(stream, names, limit)
    try:
        for _ in range(MAX_STEPS):
            code = machine.read_exactly(1)
            if code == pickle.STOP:
                break
            machine.step(code)
        else:
            raise RefusedError(f"the pickle has more than {MAX_STEPS} instructions, which no table needs")
        value = machine.stack.pop()
    except (IndexError, KeyError, UnicodeDecodeError):  # an empty stack, an unknown memo key, not UTF-8
        raise RefusedError(f"the pickle is damaged before byte {stream.tell()}") from None
    if machine.stack or stream.read(1):  # at the end of a .gz, this read also verifies the checksum
        raise RefusedError("something is left over after the end of the pickle, so the file is damaged")
    return value


class Machine:
    """The stack, the marks in it, and the memo: objects that the file may refer to again."""

    def __init__(self, stream: BinaryIO, names: Mapping[tuple[str, str], str], limit: int):
        self.stream, self.names, self.limit = stream, names, limit
        self.stack: list = []
        self.marks: list[int] = []  # stack heights
        self.memo: dict[int, Any] = {}  # not a list: the file chooses the keys, and a large one would fill the memory

    def step(self, code: bytes) -> None:
        """Execute one instruction."""
        if code in LITERALS:
            self.stack.append(LITERALS[code](self))
        elif code in ACTIONS:
            ACTIONS[code](self)
        else:
            name = OPCODE_NAMES.get(code.decode("latin-1"))
            what = f"the instruction {name}" if name else f"the byte {code!r} as an instruction"
            raise RefusedError(f"the pickle has {what}, which no table of slices needs, so nothing was run")

    # Reading the stream

    def read_exactly(self, count: int) -> bytes:
        data = self.stream.read(count) if count <= self.limit else b""
        if len(data) < count:
            raise RefusedError(f"the file ends too early: expected {count} more bytes, got {len(data)}")
        return data

    def read_integer(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.read_exactly(size), "little", signed=signed)

    def read_counted(self, size: int) -> bytes:
        """Read a length of `size` bytes, then as many bytes as it says."""
        return self.read_exactly(self.read_integer(size))

    def read_text(self, size: int) -> str:
        return str(self.read_counted(size), "utf-8", "surrogatepass")

    def read_line(self) -> str:
        return str(self.stream.readline(1000), "utf-8").removesuffix("\n")

    # Grouping values

    def push_mark(self) -> None:
        self.marks.append(len(self.stack))

    def pop_to_mark(self) -> list:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> Any:
        """The value on top of the stack, which must be of this type."""
        if type(self.stack[-1]) is not kind:
            found = type(self.stack[-1]).__name__
            raise RefusedError(f"the pickle is damaged: expected a value of type {kind.__name__}, got {found}")
        return self.stack[-1]

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

    # Names, and requests to call them

    def push_name(self, module: Any, name: Any) -> None:
        """GLOBAL and STACK_GLOBAL, where Python's own machine imports the module; here only listed names are noted."""
        if type(module) is not str or type(name) is not str:
            raise RefusedError("the pickle is damaged: it names something that is not text")
        if (module, name) not in self.names:
            raise RefusedError(
                f"the pickle names {ascii(f'{module}.{name}'[:200])[1:-1]}, which no table of slices needs, "
                f"so nothing was run; get the file from its publisher, or save it with plain columns"
            )
        self.stack.append(Name(self.names[module, name]))

    def note_call(self) -> None:
        """REDUCE and NEWOBJ, where Python's own machine calls a function or class."""
        args = self.top(tuple)
        del self.stack[-1]
        self.stack[-1] = PickledObject(self.top(Name).word, args)

    def note_state(self) -> None:
        """BUILD, where Python's own machine runs `__setstate__` or sets attributes by name."""
        state = self.stack.pop()
        self.top(PickledObject).state = state


# Instructions that push a value.
LITERALS: dict[bytes, Callable[[Machine], Any]] = {
    pickle.NONE: lambda m: None,
    pickle.NEWTRUE: lambda m: True,
    pickle.NEWFALSE: lambda m: False,
    pickle.BININT: lambda m: m.read_integer(4, signed=True),
    pickle.BININT1: lambda m: m.read_integer(1),
    pickle.BININT2: lambda m: m.read_integer(2),
    pickle.LONG1: lambda m: int.from_bytes(m.read_counted(1), "little", signed=True),
    pickle.BINFLOAT: lambda m: struct.unpack(">d", m.read_exactly(8))[0],
    pickle.SHORT_BINUNICODE: lambda m: m.read_text(1),
    pickle.BINUNICODE: lambda m: m.read_text(4),
    pickle.BINUNICODE8: lambda m: m.read_text(8),
    pickle.SHORT_BINBYTES: lambda m: m.read_counted(1),
    pickle.BINBYTES: lambda m: m.read_counted(4),
    pickle.BINBYTES8: lambda m: m.read_counted(8),
    pickle.BYTEARRAY8: lambda m: m.read_counted(8),
    pickle.EMPTY_LIST: lambda m: [],
    pickle.EMPTY_DICT: lambda m: {},
    pickle.EMPTY_TUPLE: lambda m: (),
    pickle.BINGET: lambda m: m.memo[m.read_integer(1)],
    pickle.LONG_BINGET: lambda m: m.memo[m.read_integer(4)],
}

# Instructions that change the stack or the memo.
ACTIONS: dict[bytes, Callable[[Machine], Any]] = {
    pickle.FRAME: lambda m: m.read_exactly(8),  # how far to read ahead, which a buffered stream does not need
    pickle.MARK: Machine.push_mark,
    pickle.TUPLE: lambda m: m.stack.append(tuple(m.pop_to_mark())),
    pickle.TUPLE1: lambda m: m.make_tuple(1),
    pickle.TUPLE2: lambda m: m.make_tuple(2),
    pickle.TUPLE3: lambda m: m.make_tuple(3),
    pickle.APPEND: lambda m: m.add_to_list([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.add_to_list(m.pop_to_mark()),
    pickle.SETITEM: lambda m: m.add_to_dict([m.stack.pop(-2), m.stack.pop()]),
    pickle.SETITEMS: lambda m: m.add_to_dict(m.pop_to_mark()),
    pickle.MEMOIZE: lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    pickle.BINPUT: lambda m: m.memo.__setitem__(m.read_integer(1), m.stack[-1]),
    pickle.LONG_BINPUT: lambda m: m.memo.__setitem__(m.read_integer(4), m.stack[-1]),
    pickle.GLOBAL: lambda m: m.push_name(m.read_line(), m.read_line()),
    pickle.STACK_GLOBAL: lambda m: m.push_name(m.stack.pop(-2), m.stack.pop()),
    pickle.REDUCE: Machine.note_call,
    pickle.NEWOBJ: Machine.note_call,
    pickle.BUILD: Machine.note_state,
}
