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


def mutant(
    mistake: str, name: str, slip: str, old: str | tuple[str, ...], new: str | tuple[str, ...], *, solution: str = ""
) -> Mutant:
    """The solution `solutions/NAME.py` with each text `old`, which it must hold exactly once, replaced by its `new`."""
    source = (SOLUTIONS / f"{solution or name}.py").read_text()
    for before, after in zip(*((x,) if isinstance(x, str) else x for x in (old, new)), strict=True):
        assert source.count(before) == 1, f"{mistake}: the solution holds {before!r} {source.count(before)} times"
        source = source.replace(before, after)
    return Mutant(mistake, name, slip, source)


def as_module(source: str, name: str = "student") -> ModuleType:
    """A student's file, imported."""
    module = ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module
