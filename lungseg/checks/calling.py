"""Calling a student's code: on copies, with an answer in words whatever it does."""

import ast
import inspect
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lungseg.checks.lessons import Lesson, NotJudged, NotWritten, Wrong

PACKAGE = str(Path(__file__).parent.parent)
LIBRARIES = (PACKAGE, sys.prefix, sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "<")
REFUSE_OURS = False  # `python -m lungseg.checks` sets this: there, code that only calls ours is not judged


def call(lesson: Lesson, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call a student's function or module with copies of the arguments; name what it changes in place.

    Raises:
        NotWritten: the body is blank.
        NotJudged: it only calls our function of the same name.
        Wrong: it raises an error, does not take these arguments, changes one of them, or returns None.
    """
    body = type(function).forward if isinstance(function, nn.Module) else function
    if lacks_forward(type(function)):
        raise no_forward(lesson, type(function))
    if is_blank(body):
        raise NotWritten
    names = bind(lesson, function, args, kwargs)
    given = [copy_of(a) for a in (*args, *kwargs.values())]
    positional, named = given[: len(args)], dict(zip(kwargs, given[len(args) :], strict=True))
    with watch_ours(lesson):
        result = guarded(lesson, function, *positional, **named)
    for name, before, after in zip(names, (*args, *kwargs.values()), given, strict=True):
        if not unchanged(before, after):
            raise Wrong(
                lesson,
                f"{name} was changed in place. The caller still needs it: work on a copy, or write "
                f"the result into a new tensor.",
            )
    if result is None:
        raise Wrong(lesson, f"{lesson.name} returned None: is a `return` missing?")
    return result


def build(lesson: Lesson, cls: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Construct a student's class; the same errors as `call`."""
    if is_blank(getattr(cls, "__init__", None)):
        raise NotWritten
    if lacks_forward(cls):
        raise no_forward(lesson, cls)
    if is_blank(getattr(cls, "forward", None)):
        raise NotWritten
    bind(lesson, cls, args, kwargs)
    made = guarded(lesson, cls, *args, **kwargs)
    for base in type(made).__mro__ if REFUSE_OURS else ():
        if base.__module__.startswith("lungseg.") and base.__name__ in (lesson.ours or (lesson.name,)):
            raise NotJudged(f"it is our own {lesson.name} ({base.__module__}): write your own to have it checked.")
    return made


def lacks_forward(cls: Any) -> bool:
    """Whether a class was written (it has an `__init__`), but is a module that cannot be called."""
    missing = isinstance(cls, type) and getattr(cls, "forward", None) is nn.Module.forward
    return missing and ("__init__" in vars(cls) or cls.__module__.startswith("torch."))


def no_forward(lesson: Lesson, cls: Any) -> Wrong:
    """The answer to a module that cannot be called: a list of modules, or a misspelt `forward`."""
    if issubclass(cls, (nn.ModuleList, nn.ModuleDict)):
        return Wrong(lesson, f"the result is an nn.{cls.__name__}, which cannot be called: nn.Sequential can.")
    return Wrong(lesson, f"{cls.__name__} has no method `forward`: is its name misspelt, or its indentation wrong?")


def bind(lesson: Lesson, function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The names of the parameters that these arguments are bound to; raises Wrong if they do not fit the signature."""
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # a builtin or a C function: no signature to look at
        return [*(f"argument {i + 1}" for i in range(len(args))), *kwargs]
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        where = f"{type(function).__name__}.forward" if isinstance(function, nn.Module) else lesson.name
        raise Wrong(
            lesson,
            f"{where}{signature} does not take the arguments it is called with: {error}. "
            f"It is called as\n  {lesson.signature}",
        ) from None
    names = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{name}[{i}]" for i in range(len(value))]
        else:
            names += list(value) if kind is inspect.Parameter.VAR_KEYWORD else [name]
    return [name for name in names if name not in kwargs] + list(kwargs)


def guarded(lesson: Lesson, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call the student's code; every way it can end the program becomes a sentence with the student's own line."""
    try:
        return function(*args, **kwargs)
    except (Wrong, NotJudged, NotWritten):
        raise
    except (SystemExit, KeyboardInterrupt) as error:
        raise Wrong(
            lesson,
            f"{lesson.name} ended the program ({type(error).__name__}) instead of returning a result"
            f"{students_line(error)}",
        ) from None
    except BaseException as error:  # whatever a student's code may raise
        if isinstance(error, NotImplementedError) and "not implemented for" not in str(error):  # a dtype, in torch
            blank_inside(lesson, function, error)
        message = (str(error).strip() or "no message").splitlines()[0]
        if "can't allocate memory" in message or isinstance(error, MemoryError):
            message = f"asked for more memory than a check may use ({message[-60:]})"
        shapes = ", ".join(text for text in map(short, (*args, *kwargs.values())) if text)
        raise Wrong(
            lesson, f"{type(error).__name__}: {message}{students_line(error)}\n  called with {shapes}"
        ) from None


def blank_inside(lesson: Lesson, function: Callable, error: NotImplementedError) -> None:
    """Raise NotWritten for a blank of the student's, or NotJudged if it is that of another function it needs."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if "forward" in str(error):  # what torch says of a module without one
        raise NotWritten from None
    if is_students(last.filename):
        own = type(function) if isinstance(function, nn.Module) else function
        elsewhere = Path(last.filename) != Path(inspect.getsourcefile(own) or last.filename)
        if elsewhere or last.name not in (lesson.name, "forward", "__init__"):
            raise NotJudged(f"it needs {last.name} of {Path(last.filename).name}, which is not yet written.") from None
        raise NotWritten from None


def students_line(error: BaseException) -> str:
    """Where in the student's own file an error was raised, if it was."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_students(f.filename)]
    return f"\n  in {Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""


def is_students(filename: str) -> bool:
    """Whether a line of a traceback is neither of this package nor of an installed one."""
    return not filename.startswith(LIBRARIES) and "site-packages" not in filename


def is_blank(function: Any) -> bool:
    """Whether a function still waits to be written: after its docstring only pass, ... or NotImplementedError."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return False
    body = getattr(tree.body[0], "body", [])
    if not isinstance(tree.body[0], ast.FunctionDef):
        return False
    rest = [node for node in body if not isinstance(node, ast.Pass)]
    rest = [n for n in rest if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return not rest or (
        len(rest) == 1 and isinstance(rest[0], ast.Raise) and "NotImplementedError" in ast.dump(rest[0])
    )


@contextmanager
def watch_ours(lesson: Lesson) -> Iterator[None]:
    """Raise NotJudged if our function of the same name is called: that would check our code, not the student's."""
    found = []

    def look(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and "checks" not in code.co_filename:
            if {code.co_name, code.co_qualname.split(".")[0]} & {*(lesson.ours or (lesson.name,))}:
                found.append(Path(code.co_filename).relative_to(Path(PACKAGE).parent))

    if REFUSE_OURS:
        sys.setprofile(look)
    try:
        yield
    finally:
        if REFUSE_OURS:
            sys.setprofile(None)
    if found:
        raise NotJudged(f"it calls our own {lesson.name} ({found[0]}): write your own to have it checked.")


def short(value: Any) -> str:
    """An argument in a few characters: its shape, or its value."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} {tuple(value.shape)}"
    return repr(value) if isinstance(value, (int, float, str, bool, tuple)) else ""


def copy_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.is_leaf and not value.requires_grad else value
    return value.copy() if isinstance(value, (np.ndarray, list, dict)) else value


def unchanged(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return before.shape == after.shape and torch.equal(before, after)
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after)
    return before == after if isinstance(before, (list, dict)) else True
