"""Whatever a student's code does when it is called ends in an answer that names it."""

import numpy as np
import pytest
import torch
from torch import nn

from lungseg.checks import calling
from lungseg.checks.calling import build, call
from lungseg.checks.lessons import Lesson, NotJudged, NotWritten, Wrong

LESSON = Lesson("double", "double(x) -> 2 x", "twice x.", "docs/nn/windows.md")


def answer(function, *arguments, **named):
    with pytest.raises(Wrong) as wrong:
        call(LESSON, function, *arguments, **named)
    return wrong.value.what


def test_the_result_is_returned():
    assert call(LESSON, lambda x: 2 * x, 3) == 6
    assert call(LESSON, torch.mul, torch.ones(2), 2).tolist() == [2, 2]  # a builtin has no signature


@pytest.mark.parametrize("value", [torch.ones(2), np.ones(2), [1, 1]])
def test_a_change_in_place_is_named(value):
    def double(tokens):
        tokens *= 2
        return tokens

    assert answer(double, value).startswith("tokens was changed in place")


def test_the_argument_itself_is_never_changed():
    x = torch.ones(2)

    def double(x):
        x += x
        return x

    answer(double, x)
    assert x.tolist() == [1, 1]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_ending_the_program_is_an_answer(error):
    def double(x):
        raise error

    what = answer(double, 1)
    assert f"double ended the program ({error.__name__})" in what and "test_calling.py, line" in what


def test_an_error_is_told_with_the_students_line_and_the_shapes():
    def double(x):
        return x @ torch.ones(7)

    what = answer(double, torch.ones(2, 3))
    assert "RuntimeError" in what and "return x @ torch.ones(7)" in what and "Tensor (2, 3)" in what
    assert "calling.py, line" not in what.replace("test_calling.py", "")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 TB")])
def test_too_much_memory_is_said_in_words(error):
    def double(x):
        raise error

    assert "asked for more memory than a check may use" in answer(double, 1)


def test_a_wrong_signature_is_answered_with_the_wanted_one():
    assert "double(x) -> 2 x" in answer(lambda: 1, 3)
    assert "double(x) -> 2 x" in answer(lambda x: 1, x=1, y=2)


def blank(x):
    """A docstring."""


def dots(x): ...


def raises(x):
    raise NotImplementedError


def todo(x):
    """A docstring."""
    raise NotImplementedError("write me")


@pytest.mark.parametrize("function", [blank, dots, raises, todo])
def test_a_blank_is_not_wrong(function):
    with pytest.raises(NotWritten):
        call(LESSON, function, 1)


def test_a_forgotten_return_is_no_blank():
    def double(x):
        x * 2

    assert "is a `return` missing?" in answer(double, 1)


def test_a_module_without_forward_is_a_blank():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotWritten):
        call(LESSON, build(LESSON, Empty), torch.ones(1))


def test_a_blank_that_is_needed_is_named():
    def double(x):
        return raises(x)

    with pytest.raises(NotJudged, match="it needs raises of test_calling.py"):
        call(LESSON, double, 1)


def test_ours_is_refused_where_only_own_work_counts(monkeypatch):
    from lungseg.nn.layers import MLP
    from lungseg.nn.windows import window_partition

    lesson = Lesson("window_partition", "", "", "")
    wrapped = lambda x, ws: window_partition(x, ws)  # noqa: E731
    assert call(lesson, wrapped, torch.ones(1, 2, 2, 1), 2).shape == (1, 2, 2, 1)
    monkeypatch.setattr(calling, "REFUSE_OURS", True)
    with pytest.raises(NotJudged, match="it calls our own window_partition"):
        call(lesson, wrapped, torch.ones(1, 2, 2, 1), 2)
    with pytest.raises(NotJudged, match="our own MLP"):
        build(Lesson("MLP", "", "", ""), type("MLP", (MLP,), {}), 1, 2)
