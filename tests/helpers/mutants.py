"""Wrong files of the kind students write, made from right ones by one edit each."""

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

SOLUTIONS = Path(__file__).parents[1] / "checks" / "solutions"


class Mutant(NamedTuple):
    """A wrong file, and what the checks must say of it."""

    mistake: str  # what the student did
    name: str  # of the function or class that is judged
    slip: str  # that must be named, a key of the lesson's slips; "" where none describes it
    source: str  # the whole file


def mutant(mistake: str, name: str, slip: str, old: str, new: str, *, solution: str = "") -> Mutant:
    """The solution `solutions/NAME.py` with the text `old`, which it must hold exactly once, replaced by `new`."""
    source = (SOLUTIONS / f"{solution or name}.py").read_text()
    assert source.count(old) == 1, f"{mistake}: the solution holds {old!r} {source.count(old)} times"
    return Mutant(mistake, name, slip, source.replace(old, new))


def as_module(source: str, name: str = "student") -> ModuleType:
    """A student's file, imported."""
    module = ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module
