"""Values from a file that somebody may have edited: what has the right type passes as it is, all else is named."""

from dataclasses import fields
from typing import Any, Literal, get_type_hints

import pytest
import torch
from hypothesis import example, given, settings, strategies as st

from lungseg.training.recipe import TrainingRecipe, VolumeRecipe
from lungseg.typed import expect, form, read_json, short, typed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FITTING = {
    int: st.integers(), float: st.integers() | st.floats(allow_nan=False, allow_infinity=False), str: st.text(),
    bool: st.booleans(), int | None: st.none() | st.integers(), Literal["a", "b"]: st.sampled_from(["a", "b"]),
    Literal[2, 3]: st.sampled_from([2, 3]), tuple[int, ...]: st.lists(st.integers()).map(tuple),
}  # fmt: skip


@pytest.mark.parametrize("hint", FITTING, ids=str)
@given(data=st.data())
def test_a_value_of_its_type_passes_as_it_is(hint, data):
    value = data.draw(FITTING[hint])
    found = typed(value, hint, "x")
    assert found == value and type(found) is type(value)


def test_a_list_of_json_becomes_a_tuple():
    assert typed([2, 2, 6], tuple[int, ...], "depths") == (2, 2, 6)


@given(JSON)
@example(float("inf"))
@example(float("nan"))
@example(10**400)
def test_any_other_value_is_refused_in_one_sentence(value):
    """An oracle of plain isinstance, for each kind of field."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    finite = number and value not in (float("inf"), -float("inf")) and value == value
    fits = {
        int: type(value) is int, float: finite, str: isinstance(value, str), bool: isinstance(value, bool),
        int | None: value is None or type(value) is int, Literal["a", "b"]: value in ("a", "b"),
        tuple[int, ...]: isinstance(value, list) and all(type(v) is int for v in value),
    }  # fmt: skip
    for hint, good in fits.items():
        if good:
            typed(value, hint, "recipe.json: lr")
            continue
        with pytest.raises(ValueError, match="^recipe.json: lr is damaged: it is ") as error:
            typed(value, hint, "recipe.json: lr")
        assert "\n" not in str(error.value) and len(str(error.value)) < 250


@pytest.mark.parametrize("kind", [TrainingRecipe, VolumeRecipe])
def test_every_field_of_a_recipe_is_of_a_kind_that_is_known(kind):
    for f in fields(kind):
        assert typed(getattr(kind(), f.name), get_type_hints(kind)[f.name], f.name) == getattr(kind(), f.name)


def test_names_and_their_types_are_expected():
    expect({"a": 1, "b": "x", "more": None}, {"a": int, "b": str | None}, "file")
    for values, words in (
        ([1], "file is damaged: expected named values, got"),
        ({"a": 1}, "file is damaged: b is missing"),
        ({"a": "1", "b": None}, "file is damaged: a is '1'"),
        ({"a": True, "b": None}, "file is damaged: a is True"),
    ):
        with pytest.raises(ValueError, match=words):
            expect(values, {"a": int, "b": str | None}, "file")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_one_sentence(tmp_path, data):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"x.json is damaged: it is not JSON \(") as error:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(error.value)


# ---- states of networks and optimizers ----------------------------------------------------------------------------

STATE: dict[str, Any] = {
    "weight": torch.zeros(2, 3), "steps": 7, "rates": [0.1, 0.2], "mode": "max", "best": None, "stop": False,
    "_torch": 1, "group": {"betas": (0.9, 0.99)},
}  # fmt: skip


def test_values_may_differ_and_so_may_what_torch_keeps_for_itself():
    saved = {
        "weight": torch.ones(2, 3), "steps": 9, "rates": [1, 0.5], "mode": "min", "best": 0.5, "stop": True,
        "group": {"betas": [0.5, 0.5]}, "another": 1,
    }  # fmt: skip
    assert form(saved, STATE, "x") is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("weight", torch.zeros(3, 2), r"x.weight is \(3, 2\) torch.float32, expected \(2, 3\) torch.float32"),
        ("weight", torch.zeros(2, 3, dtype=torch.int64), "x.weight is .* torch.int64, expected"),
        ("weight", [0.0], "x.weight is .0.0., expected"),
        ("steps", "7", "x.steps is '7', expected int"),
        ("steps", True, "x.steps is True, expected int"),
        ("rates", [0.1], r"x.rates is \[0.1\], expected 2 values"),
        ("rates", [0.1, "fast"], r"x.rates\[1\] is 'fast', expected float"),
        ("rates", {}, "x.rates is {}, expected 2 values"),
        ("stop", 0, "x.stop is 0, expected bool"),
        ("best", [1], r"x.best is \[1\], expected"),
        ("group", [], r"x.group is \[\], expected named values"),
        ("group", {}, "x.group lacks betas"),
        ("group", {"betas": (0.9, {})}, r"x.group.betas\[1\] is {}"),
    ],
)
def test_another_form_is_named(name, value, words):
    (found,) = [form({**STATE, name: value}, STATE, "x")]
    assert found is not None
    with pytest.raises(ValueError, match=words):
        raise ValueError(found)


def test_what_is_missing_is_named():
    for name in STATE:
        found = form({k: v for k, v in STATE.items() if k != name}, STATE, "x")
        assert found == (None if name == "_torch" else f"x lacks {name}")


@given(JSON, JSON)
def test_any_two_states_can_be_compared(saved, fresh):
    assert form(saved, fresh, "x") is None or "\n" not in form(saved, fresh, "x")
    assert form(fresh, fresh, "x") is None


@settings(max_examples=20)  # of 30 and more values each
@given(st.lists(JSON, min_size=30))
def test_every_value_is_shown_in_a_few_characters(value):
    assert len(repr(value)) > 60 and len(short(value)) < 80
