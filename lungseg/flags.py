"""A recipe is a frozen dataclass: typed, explained field by field, and turned into command-line flags.

The dataclass is defined at the top of its script, because hyper-parameters are part of what is taught. Named recipes
are instances of it, {"demo": Recipe(...), "report": Recipe(...)}: `--recipe NAME` picks one, and the flag of any field
(batch_size is --batch-size) changes that one value.
"""

import argparse
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from lungseg.typed import short

if TYPE_CHECKING:  # the type of "any dataclass" exists for type checkers only
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
T = TypeVar("T", bound="DataclassInstance")
Check = Callable[[Any], str | None]  # a number -> what it must be, if it is not that


# ---- fields -----------------------------------------------------------------------------------------------------


def option(default: Any, help: str, *, check: Check | None = None, before: Any = ...) -> Any:
    """A dataclass field with its default, its reason and its limits.

        lr: float = option(5e-4, "why this number", check=positive)

    Args:
        check: what each number of the field must satisfy, tested by `check_fields`. By default a whole number must be
            at least 1, and a floating-point number finite.
        before: for a field that was added later: the value that runs without it had, so that they can be resumed.
    """
    earlier = {} if before is ... else {"before": before}
    return field(default=default, metadata={"help": help, "check": check} | earlier)


def positive(number: float) -> str | None:
    return too_large(number) or (None if number > 0 else "must be positive")


def not_negative(number: float) -> str | None:
    return too_large(number) or (None if number >= 0 else "must not be negative")


def at_least_1(number: float) -> str | None:
    return too_large(number) or (None if number >= 1 else "must be at least 1")


def share(number: float) -> str | None:
    return not_negative(number) or (None if number <= 1 else "must be a share from 0 to 1")


def below_1(number: float) -> str | None:
    return not_negative(number) or (None if number < 1 else "must be below 1")


def too_large(number: float) -> str | None:
    """torch counts elements and sizes of axes in whole numbers that end here."""
    is_large = isinstance(number, int) and number >= 2**31
    return "must be below 2^31 = 2,147,483,648" if is_large else None


def from_to(low: int, high: int, name_of_high: str = "") -> Check:
    """The check of a whole number from `low` to `high`, which a message may give another name: "2^63 - 1"."""
    return lambda number: None if low <= number <= high else f"must be from {low} to {name_of_high or high}"


def check_fields(values: "DataclassInstance") -> None:
    """Raise a ValueError at the first field of a dataclass whose value is not possible; call it in `__post_init__`."""
    for f in fields(values):
        value = getattr(values, f.name)
        if value == "":
            raise ValueError(f"{f.name} is empty; is the shell variable it comes from set?")
        if isinstance(value, bool | str | Path) or value is None:
            continue
        numbers = value if isinstance(value, tuple) else (value,)
        if f.type == tuple[str, ...]:  # paths or names; there may be none
            if "" in numbers:
                raise ValueError(f"{f.name} holds an empty path or name; is the shell variable it comes from set?")
            continue
        if not numbers:
            raise ValueError(f"{f.name} must name at least one number")
        check = f.metadata["check"] or (at_least_1 if int in (f.type, *get_args(f.type)) else too_large)
        for number in numbers:
            problem = check(number)
            if problem or not (isinstance(number, int) or math.isfinite(number)):  # no float is as large as some ints
                raise ValueError(f"{f.name}={short(value)} {problem or 'must be a finite number'}")


# ---- flags ------------------------------------------------------------------------------------------------------


def parse_recipe(
    recipes: Mapping[str, R], options: T, argv: Sequence[str] | None = None, *, description: str | None = None
) -> tuple[R, T, dict[str, Any]]:
    """Choose a recipe and change single fields of it, from command-line flags.

    Args:
        recipes: name -> recipe, all of one frozen dataclass; the first is the default.
        options: a second frozen dataclass with what does not belong to the recipe (where the data are, ...).
        argv: the flags; None takes those of the command line.
        description: shown by --help, usually the `__doc__` of the script.

    Returns:
        The recipe, the options, and name -> value of what the user asked for: every field whose flag was
        given, and all fields of the recipe if --recipe was given. A resumed run compares these with its own.

    Raises:
        SystemExit: with code 2 and one sentence for a flag that is unknown, shortened or has a bad value
            (also one that the dataclass refuses with a ValueError); with code 0 for --help.
    """
    chooser = Parser(add_help=False)
    chooser.add_argument("--recipe", choices=list(recipes), help="the named set of defaults for the flags below")
    named = chooser.parse_known_args(argv)[0].recipe  # first, so that --help can show this recipe's numbers
    recipe = recipes[named or next(iter(recipes))]

    parser = Parser(description=description, parents=[chooser])
    add_flags(parser.add_argument_group("this run"), options)
    add_flags(parser.add_argument_group(f"the recipe (defaults: {named or next(iter(recipes))})"), recipe)
    given = vars(parser.parse_args(argv))
    del given["recipe"]
    try:
        recipe, options = changed(recipe, given), changed(options, given)
    except ValueError as error:
        parser.error(str(error))
    return recipe, options, {**asdict(recipe), **given} if named else given


def parse_options(options: T, argv: Sequence[str] | None = None, *, description: str | None = None) -> T:
    """Like `parse_recipe`, for a script that has options only."""
    parser = Parser(description=description)
    add_flags(parser, options)
    try:
        return changed(options, vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


def as_flags(recipe: R, recipes: Mapping[str, R]) -> list[str]:
    """The fewest flags from which `parse_recipe` makes this recipe: ["--recipe", "report", "--lr", "0.01"]."""
    ways: list[list[str]] = []
    for name, start in recipes.items():
        flags = ["--recipe", name] if ways else []  # the first is the default
        for f in fields(recipe):
            value = getattr(recipe, f.name)
            if value != getattr(start, f.name):
                flags += as_flag(f.name, value)
        ways.append(flags)
    return min(ways, key=len)


def as_flag(name: str, value: Any) -> list[str]:
    """One field as a flag: ["--depths", "2", "2"], ["--no-prior-bias"], ["--grad-clip", "none"]."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, tuple) else ("none" if value is None else value,)
    return [f"--{flag}", *map(str, values)]


# ---- for a script that takes more than the flags of a dataclass ---------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse that accepts no shortened flags, keeps the line breaks of a description, and errs in one line."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one sentence; argparse would print all flags first."""
        self.exit(2, f"{self.prog}: {message} (--help explains every flag)\n")


def add_flags(parser: Any, values: Any) -> None:
    """Add one flag for each field of a dataclass; its help ends with the default.

    Args:
        parser: a parser, or a group of one.
        values: the dataclass, with the defaults. What the parser returns holds only the flags that were given
            (SUPPRESS); `changed` applies them to the dataclass.
    """
    hints = get_type_hints(type(values))
    for f in fields(values):
        flag, default = "--" + f.name.replace("_", "-"), getattr(values, f.name)
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        shown = "none" if shown is None or shown == "" else shown
        help_ = f"{f.metadata['help']} (default: {shown})".replace("%", "%%")  # argparse formats this text
        reader = {"action": argparse.BooleanOptionalAction} if hints[f.name] is bool else _reader(hints[f.name])
        parser.add_argument(flag, help=help_, default=argparse.SUPPRESS, **reader)


def changed(values: T, given: Mapping[str, Any]) -> T:
    """The dataclass with its fields replaced by those that are `given`; a ValueError if it refuses them."""
    return replace(values, **{f.name: given[f.name] for f in fields(values) if f.name in given})


def _reader(hint: Any) -> dict[str, Any]:
    """How argparse reads one type: int, float, str, Path; Literal[...]; X | None; tuple[int, ...]."""
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint), "type": type(get_args(hint)[0])}
    if get_origin(hint) is tuple:  # several values after one flag: --depths 2 2 2 2
        inner = get_args(hint)[0]
        return {"type": inner, "nargs": "+", "action": _StoreTuple, "metavar": "TEXT" if inner is str else "N"}
    if get_origin(hint) in (Union, types.UnionType):  # X | None: the word "none" stands for None
        (inner,) = (t for t in get_args(hint) if t is not type(None))
        return {"type": _or_none(given_path if inner is Path else inner), "metavar": inner.__name__.upper()}
    return {"type": given_path if hint is Path else hint, "metavar": hint.__name__.upper()}


def given_path(text: str) -> Path:
    """A path from the command line. An empty one (an unset shell variable) would mean the current folder: refuse it."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty. Write . for the current folder.")
    return Path(text)


def _or_none(inner: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else inner(text)

    read.__name__ = f"{inner.__name__}, or none"  # argparse says: invalid float, or none value: 'x'
    return read


class _StoreTuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))  # a list would not be equal to the default
