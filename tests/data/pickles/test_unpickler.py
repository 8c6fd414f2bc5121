"""The machine that reads a pickle without running it: plain values as Python reads them, and nothing else."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from lungseg.data.pickles.unpickler import MAX_STEPS, Name, PickledObject, RefusedError, unpickle

NAMES = {("builtins", "slice"): "slice", ("__builtin__", "slice"): "slice", ("numpy", "ndarray"): "class"}


def read(data: bytes, names=NAMES):
    return unpickle(io.BytesIO(data), names, limit=len(data))


# What it reads

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**2039), 2**2039 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"))
    | st.text(st.characters(categories=["Cs"]))  # a lone surrogate is legal in a Python str
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.lists(inner, min_size=1, max_size=1).map(lambda one: one * 3)  # the same object three times
    ),
    max_leaves=20,
)


@given(PLAIN, st.integers(3, 5))
@example([[i] for i in range(2500)], 2)  # more than 256 memo entries, and lists in batches of 1000
@example("x" * 70_000, 4)
def test_plain_values_come_back_as_python_reads_them(value, protocol):
    assert repr(read(pickle.dumps(value, protocol))) == repr(value)  # repr distinguishes 1 from True and knows NaN


def test_a_long_text_and_a_bytearray_come_as_text_and_bytes():
    value = ["a" * 300, b"b" * 300, b"c" * 70_000, bytearray(b"d" * 70_000)]
    assert read(pickle.dumps(value, 5)) == ["a" * 300, b"b" * 300, b"c" * 70_000, b"d" * 70_000]


def test_what_occurs_twice_in_the_file_is_one_object():
    one = ["shared"]
    first, second = read(pickle.dumps([one, one], 5))
    assert first is second


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_call_is_noted_and_not_made(protocol):
    pickled = read(pickle.dumps(slice(1, 2, 3), protocol))
    assert type(pickled) is PickledObject and (pickled.name, pickled.args, pickled.state) == ("slice", (1, 2, 3), None)


def test_a_class_alone_becomes_its_short_name():
    assert read(pickle.dumps(slice, 5)) == Name("slice")


def test_a_state_is_noted_and_sets_nothing():
    program = b"\x80\x04cbuiltins\nslice\n)\x81}\x8c\x09__class__K\x01sb."
    pickled = read(program)
    assert type(pickled) is PickledObject and pickled.state == {"__class__": 1}


# What it refuses


class Calls:
    """Pickled, it asks the program that loads it to call `function(*args)`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def evil_pickles(target: str) -> dict[str, bytes]:
    """The name to be refused -> a pickle that would write the file `target`."""
    write = f"__import__('pathlib').Path('{target}').touch()"
    shell = f'{sys.executable} -c "{write}"'
    system = f"{os.system.__module__}.system"  # posix.system or nt.system
    text = f"\x8c{chr(len(shell))}{shell}".encode("latin-1")
    return {
        system: pickle.dumps(Calls(os.system, shell), 5),
        "builtins.eval": pickle.dumps(Calls(eval, write), 4),
        "builtins.exec": pickle.dumps(Calls(exec, write), 3),
        "__builtin__.eval": pickle.dumps(Calls(eval, write), 2),
        "builtins.getattr": pickle.dumps(Calls(getattr, Calls(__import__, "os"), "system"), 5),
        "subprocess.Popen": pickle.dumps(Calls(subprocess.Popen, shell, -1, None, None, None, None), 5),
        "numpy.load": pickle.dumps(Calls(np.load, target), 5),
        "_pickle.loads": pickle.dumps(Calls(pickle.loads, pickle.dumps(Calls(eval, write))), 5),
        "numpy.ndarray.tofile": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "numpy.os.system": b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93" + text + b"\x85R.",
        "builtins.slice.__class__": b"\x80\x04cbuiltins\nslice.__class__\n.",
        "os.system": b"\x80\x02cos\nsystem\n" + text + b"\x85R.",
        "os.popen": b"\x80\x04}\x8c\x05state" + b"\x8c\x02os\x8c\x05popen\x93" + text + b"\x85Rs.",
    }


@pytest.mark.parametrize("name", evil_pickles("x"))
def test_a_name_that_is_not_on_the_list_is_refused_and_nothing_runs(name, tmp_path):
    target = tmp_path / "it_ran"
    with pytest.raises(RefusedError, match=rf"names '?{name}'?[, ].*nothing was run"):
        read(evil_pickles(str(target))[name])
    assert not target.exists()


def test_the_same_pickles_do_run_in_pythons_own_machine(tmp_path):
    for name in ["builtins.eval", "builtins.exec", "_pickle.loads", "os.system"]:
        target = tmp_path / name
        pickle.loads(evil_pickles(str(target))[name])
        assert target.exists()


@pytest.mark.parametrize(
    "instruction, program",
    [
        ("INST", b"(ios\nsystem\n."),
        ("OBJ", b"(cbuiltins\nslice\no."),
        ("EXT1", b"\x82\x01."),
        ("EXT4", b"\x84\x01\x00\x00\x00."),
        ("PERSID", b"Pfile:///etc/passwd\n."),
        ("BINPERSID", b"NQ."),
        ("NEWOBJ_EX", b"cbuiltins\nslice\n)}\x92."),
        ("NEXT_BUFFER", b"\x97."),
        ("LONG4", b"\x8b\xff\xff\xff\x7f."),
        ("EMPTY_SET", b"\x8f."),
        ("STRING", b"S'a'\n."),
    ],
)
def test_an_instruction_that_no_table_needs_is_refused_by_name(instruction, program):
    with pytest.raises(RefusedError, match=f"the instruction {instruction}, "):
        read(b"\x80\x04" + program)


@pytest.mark.parametrize(
    "sentence, program",
    [
        ("not a pickle", b""),
        ("not a pickle", b"PK\x03\x04 a zip archive"),
        ("not a pickle", b"(lp0\n."),  # protocol 0
        ("protocol 6", b"\x80\x06N."),
        ("protocol none", b"\x80"),
        ("ends too early", b"\x80\x04"),
        ("ends too early", b"\x80\x04N"),
        ("ends too early: expected 5 more bytes, got 2", b"\x80\x04\x8c\x05ab"),
        ("ends too early", b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"ab"),
        ("ends too early", b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b"ab"),
        ("damaged before byte 3", b"\x80\x04."),  # nothing to return
        ("damaged", b"\x80\x04t."),  # a tuple down to a mark that was never set
        ("damaged", b"\x80\x04h\x07."),  # a memo entry that was never made
        ("damaged", b"\x80\x04\x8c\x01\xff."),  # not UTF-8
        ("expected a value of type list, got NoneType", b"\x80\x04NNa."),
        ("expected a value of type tuple, got str", b"\x80\x04N\x8c\x00R."),
        ("expected a value of type Name, got NoneType", b"\x80\x04N)R."),
        # this one would set an attribute of a class
        ("expected a value of type PickledObject, got Name", b"\x80\x04cbuiltins\nslice\n}b."),
        ("something that is not text", b"\x80\x04NN\x93."),
        ("the byte b'\\xff'", b"\x80\x04\xff."),
        ("left over", b"\x80\x04NN."),
        ("left over", b"\x80\x04N.more"),
    ],
)
def test_a_damaged_pickle_is_refused_with_its_reason(sentence, program):
    with pytest.raises(RefusedError) as refusal:
        read(program)
    assert sentence in str(refusal.value)


def test_a_name_cannot_smuggle_line_breaks_or_a_page_of_text_into_the_message():
    name = "é\x1b[2J\n" * 1000
    encoded = name.encode()
    program = b"\x80\x04\x8c\x01m" + b"X" + struct.pack("<I", len(encoded)) + encoded + b"\x93."
    with pytest.raises(RefusedError) as refusal:
        read(program)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 2000


# Files that would crash Python's own machine, or fill the memory


@pytest.fixture
def traced_peak():
    def measure(function):
        tracemalloc.start()
        try:
            function()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


DEEP = 30_000


def test_a_deeply_nested_key_is_refused_where_its_hash_would_end_the_process():
    with pytest.raises(RefusedError, match="a key in the pickle is of type tuple"):
        read(b"\x80\x04})" + b"\x85" * DEEP + b"Ns.")


def test_deep_nesting_is_read_and_thrown_away_without_recursion():
    assert type(read(b"\x80\x04)" + b"\x85" * DEEP + b".")) is tuple
    lists = b"\x80\x04" + b"]" * DEEP + b"a" * (DEEP - 1) + b"."
    assert type(read(lists)) is list
    objects = b"\x80\x04" + b"cbuiltins\nslice\n" * DEEP + b")" + b"\x81\x85" * (DEEP - 1) + b"\x81."
    assert type(read(objects)) is PickledObject


def test_a_memo_index_of_four_thousand_million_takes_no_memory(traced_peak):
    assert traced_peak(lambda: read(b"\x80\x04Nr\xff\xff\xff\xff.")) < 1_000_000


def test_a_length_that_the_file_cannot_hold_takes_no_memory(traced_peak, tmp_path):
    path = tmp_path / "file"  # io.BytesIO would know better; a buffered file allocates what it is asked for
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**32) + b"ab")

    def refuse():
        with open(path, "rb") as file, pytest.raises(RefusedError, match="ends too early"):
            unpickle(file, NAMES, limit=path.stat().st_size)

    assert traced_peak(refuse) < 1_000_000


def test_a_program_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr("lungseg.data.pickles.unpickler.MAX_STEPS", 1000)
    with pytest.raises(RefusedError, match="more than 1000 instructions"):
        read(b"\x80\x04" + b"}" * 2000 + b".")
    assert MAX_STEPS > 20 * 100_000  # 100,000 are enough for a thousand slices


# Any bytes

CODES = b"N\x88\x89)]}(0.a:esut\x85\x86\x87\x93R\x81b\x94h\x00q\x01K\x07"
INSTRUCTIONS = st.sampled_from([bytes([code]) for code in CODES])


@settings(max_examples=300)
@given(st.lists(INSTRUCTIONS | st.binary(max_size=6) | st.just(b"cbuiltins\nslice\n")).map(b"".join))
def test_any_program_is_read_or_refused(program):
    try:
        read(b"\x80\x04" + program + b".")
    except RefusedError as refusal:
        assert str(refusal).isprintable()


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32 - 1), flips=st.integers(1, 8))
def test_a_pickle_with_flipped_bytes_is_read_or_refused(seed, flips):
    data = bytearray(pickle.dumps({"a": [slice(1, 2), b"x" * 300], "b": ("text", 1.5, None, slice)}, 5))
    rng = np.random.default_rng(seed)
    for position in rng.integers(2, len(data), flips):
        data[position] = rng.integers(256)
    try:
        read(bytes(data))
    except RefusedError as refusal:
        assert str(refusal).isprintable()
