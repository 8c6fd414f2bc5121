"""What a flag does to a recipe, and what is refused."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, strategies as st

from lungseg.flags import (
    Parser,
    add_flags,
    as_flags,
    changed,
    check_fields,
    from_to,
    not_negative,
    option,
    parse_options,
    parse_recipe,
    positive,
    share,
)


@dataclass(frozen=True)
class Recipe:
    steps: int = option(20_000, "optimiser steps; 100% of them")
    lr: float = option(5e-4, "peak learning rate, reached after the warm-up")
    bf16: bool = option(True, "run in bfloat16")
    grad_clip: float | None = option(None, "largest norm of the gradient")
    loss: Literal["bce", "dice"] = option("bce", "what is made small")
    depths: tuple[int, ...] = option((2, 2), "blocks per stage")

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr={self.lr} must be positive")


@dataclass(frozen=True)
class Options:
    out: Path = option(Path("run"), "folder")
    resume: bool = option(False, "go on")


RECIPES = {"demo": Recipe(), "long": Recipe(steps=10**6, lr=1e-4, grad_clip=5.0)}


def parse(*argv):
    return parse_recipe(RECIPES, Options(), argv, description="Learn something.")


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1, f"one sentence, not {text!r}"
    return text


def test_without_flags_the_first_recipe_is_used_as_it_stands():
    assert parse() == (RECIPES["demo"], Options(), {})


def test_a_name_chooses_a_recipe_and_a_flag_changes_one_number_of_it():
    recipe, options, given = parse("--lr", "0.1", "--recipe", "long", "--resume")
    assert recipe == Recipe(steps=10**6, lr=0.1, grad_clip=5.0)
    assert options == Options(resume=True)
    assert given["lr"] == 0.1 and given["steps"] == 10**6 and given["resume"] is True


@given(
    st.builds(
        Recipe,
        steps=st.integers(0, 10**9),
        lr=st.floats(1e-9, 1e9),
        bf16=st.booleans(),
        grad_clip=st.none() | st.floats(0, 1e9),
        loss=st.sampled_from(["bce", "dice"]),
        depths=st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
    ),
    st.sampled_from(sorted(RECIPES)),
)
def test_any_recipe_can_be_written_as_flags(wanted, start):
    argv = ["--recipe", start]
    for f in fields(wanted):
        flag, value = "--" + f.name.replace("_", "-"), getattr(wanted, f.name)
        if isinstance(value, bool):
            argv.append(flag if value else flag.replace("--", "--no-"))
        else:
            argv += [flag, *map(str, value if isinstance(value, tuple) else [value])]
    recipe, _, given = parse(*argv)
    assert recipe == wanted
    assert given == {f.name: getattr(wanted, f.name) for f in fields(wanted)}


def test_only_what_was_asked_for_counts_as_given():
    assert parse("--steps", "20000")[2] == {"steps": 20_000}  # also where it equals the default
    assert parse("--recipe", "demo")[2] == {f.name: getattr(Recipe(), f.name) for f in fields(Recipe)}


def test_none_is_a_value_of_an_optional_field():
    assert parse("--recipe", "long", "--grad-clip", "none")[0].grad_clip is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--step", "3"], "--step"),  # shortened: refused, not guessed
        (["--rec", "long"], "--rec"),
        (["--learning-rate", "3"], "--learning-rate"),
        (["--steps", "3.5"], "invalid int value: '3.5'"),
        (["--grad-clip", "lots"], "invalid float, or none value: 'lots'"),
        (["--loss", "mse"], "choose from"),
        (["--recipe", "short"], "choose from"),
        (["--lr", "-1"], "lr=-1.0 must be positive"),
        (["--depths"], "at least one"),
        (["stray"], "stray"),
    ],
)
def test_a_bad_flag_ends_in_one_sentence(capsys, argv, words):
    assert words in refusal(capsys, *argv)


def test_help_shows_the_numbers_of_the_recipe_that_was_named(capsys):
    for argv, lr in ((["--help"], "0.0005"), (["--recipe", "long", "--help"], "0.0001")):
        with pytest.raises(SystemExit) as stop:
            parse(*argv)
        assert stop.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "Learn something." in text
        assert f"peak learning rate, reached after the warm-up (default: {lr})" in text
        assert "100% of them" in text and "(default: 2 2)" in text


@dataclass(frozen=True)
class Judging:
    dims: Literal[2, 3] = option(2, "of what")
    seeds: tuple[int, ...] = option((0, 1), "of the training runs")

    def __post_init__(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must differ")


def test_a_script_with_options_only_has_no_recipe(capsys):
    assert parse_options(Judging(), []) == Judging()
    assert parse_options(Judging(), ["--dims", "3", "--seeds", "4", "5", "6"]) == Judging(3, (4, 5, 6))
    for argv in (["--recipe", "demo"], ["--dims", "4"], ["--seeds", "1", "1"], ["--seed", "1"]):
        with pytest.raises(SystemExit) as stop:
            parse_options(Judging(), argv)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        parse_options(Judging(), ["--help"], description="Compare.")
    assert stop.value.code == 0 and "of the training runs (default: 0 1)" in capsys.readouterr().out


def test_a_script_with_arguments_of_its_own_adds_the_flags_of_a_dataclass(capsys):
    parser = Parser(prog="judge.py", description="Two\nlines.")
    parser.add_argument("checkpoint")
    add_flags(parser, Judging())
    args = parser.parse_args(["best.pt", "--dims", "3"])
    assert vars(args) == {"checkpoint": "best.pt", "dims": 3}  # what was left out leaves no trace
    assert changed(Judging(), vars(args)) == Judging(dims=3)
    with pytest.raises(ValueError, match="must differ"):
        changed(Judging(), vars(parser.parse_args(["best.pt", "--seeds", "1", "1"])))
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["best.pt", "--dim", "3"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "judge.py: unrecognized arguments: --dim 3 (--help explains every flag)\n"
    assert "Two\nlines." in parser.format_help() and "of what (default: 2)" in parser.format_help()


@given(st.data())
def test_flags_of_a_recipe_make_that_recipe(data):
    names = {f.name: data.draw(VALUES[f.name]) for f in fields(Fields)}
    recipe, recipes = Fields(**names), {"a": Fields(), "b": Fields(flag=True, sizes=(1,), rate=0.5)}
    argv = as_flags(recipe, recipes)
    assert parse_recipe(recipes, Empty(), argv)[0] == recipe
    assert as_flags(recipes["a"], recipes) == [] and as_flags(recipes["b"], recipes) == ["--recipe", "b"]


@dataclass(frozen=True)
class Fields:
    flag: bool = option(False, "")
    sizes: tuple[int, ...] = option((2, 2), "")
    rate: float = option(0.1, "")
    most: int | None = option(None, "")
    file: str | None = option(None, "")
    kind: Literal["x", "y"] = option("x", "")


@dataclass(frozen=True)
class Empty:
    pass


VALUES = {
    "flag": st.booleans(),
    "sizes": st.lists(st.integers(1, 99), min_size=1, max_size=4).map(tuple),
    "rate": st.floats(0, 1e6),
    "most": st.none() | st.integers(0, 99),
    "file": st.none() | st.sampled_from(["a.pt", "my file.pt", "ü/b.pt"]),
    "kind": st.sampled_from(["x", "y"]),
}


# ---- limits of fields -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    count: int = option(1, "at least 1 unless the field says otherwise")
    sides: tuple[int, ...] = option((1, 2), "several numbers")
    rate: float = option(0.1, "any finite number")
    lr: float | None = option(None, "above 0", check=positive)
    wait: int | None = option(0, "0 or more", check=not_negative)
    part: float = option(0.5, "a share", check=share)
    seed: int = option(0, "a range", check=from_to(0, 2**63 - 1, "2^63 - 1"))
    out: Path = option(Path("run"), "a path")
    yes: bool = option(False, "a switch")

    def __post_init__(self):
        check_fields(self)


@given(
    st.integers(-3, 2**32), st.floats(), st.floats() | st.none(), st.integers(-3, 3) | st.none(), st.floats(-1, 2),
    st.integers(-2, 2**64),
)  # fmt: skip
def test_a_field_takes_just_what_its_limits_allow(count, rate, lr, wait, part, seed):
    possible = [
        1 <= count < 2**31,
        math.isfinite(rate),
        lr is None or 0 < lr < math.inf,
        wait is None or wait >= 0,
        0 <= part <= 1,
        0 <= seed < 2**63,
    ]
    try:
        Limits(count, (1, count), rate, lr, wait, part, seed)
    except ValueError as error:
        name = ("count", "rate", "lr", "wait", "part", "seed")[possible.index(False)]
        assert str(error).startswith((f"{name}=", "sides=")[:1]), error
    else:
        assert all(possible)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sides": ()}, "^sides must name at least one number$"),
        ({"sides": (2, 0)}, r"^sides=\(2, 0\) must be at least 1$"),
        ({"count": 2**31}, r"^count=2147483648 must be below 2\^31"),
        ({"rate": 10**400}, r"^rate=10+ \.\.\. \(int\) must be below 2\^31"),
        ({"rate": 0}, None),  # a whole number in the place of a fraction, as JSON may hold it
        ({"rate": -1}, None),
        ({"seed": -1}, r"^seed=-1 must be from 0 to 2\^63 - 1$"),
        ({"out": ""}, "^out is empty; is the shell variable it comes from set"),
    ],
)
def test_a_value_without_meaning_is_one_sentence(changes, words):
    if words is None:
        Limits(**changes)
        return
    with pytest.raises(ValueError, match=words):
        Limits(**changes)


@dataclass(frozen=True)
class Names:
    names: tuple[str, ...] = option(("all",), "several names")

    def __post_init__(self):
        check_fields(self)


def test_a_flag_takes_several_names():
    assert parse_options(Names(), []).names == ("all",)
    assert parse_options(Names(), ["--names", "u_net", "unetr"]).names == ("u_net", "unetr")
