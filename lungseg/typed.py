"""Values read from a file that somebody may have edited: of the right type, or an error names the field."""

import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import torch

from lungseg.files import regular_file

RESTORE = "Restore it from a copy, or start a new run in another --out."


def read_json(path: Path) -> Any:
    """The content of a JSON file; a ValueError if it is not JSON."""
    try:
        return json.loads(regular_file(path).read_text())
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise ValueError(f"{path} is damaged: it is not JSON ({error}). {RESTORE}") from None


def expect(values: object, types_: Mapping[str, Any], where: str) -> None:
    """A ValueError unless `values` is a dict with all of these names, each of its type."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is damaged: expected named values, got {short(values)}. {RESTORE}")
    for name, type_ in types_.items():
        if name not in values:
            raise ValueError(f"{where} is damaged: {name} is missing. {RESTORE}")
        value = values[name]
        if not isinstance(value, type_) or (isinstance(value, bool) and type_ is not bool):
            raise ValueError(f"{where} is damaged: {name} is {short(value)}. {RESTORE}")


def typed(value: Any, hint: Any, where: str) -> Any:
    """`value`, if it fits a recipe field of this type; JSON's lists become tuples. Otherwise a ValueError."""
    good, inner = False, get_args(hint)
    if get_origin(hint) is Literal:
        good = any(type(value) is type(choice) and value == choice for choice in inner)
    elif get_origin(hint) in (Union, types.UnionType):  # X | None
        (kind,) = (t for t in inner if t is not type(None))
        return None if value is None else typed(value, kind, where)
    elif get_origin(hint) is tuple:
        if isinstance(value, list | tuple):
            return tuple(typed(item, inner[0], where) for item in value)
    elif hint is float:
        good = type(value) is int or (type(value) is float and math.isfinite(value))
    else:
        good = type(value) is hint
    if not good:
        raise ValueError(f"{where} is damaged: it is {short(value)}. {RESTORE}")
    return value


def short(value: object) -> str:
    """A value of any size, shortened for a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]} ... ({type(value).__name__})"


def form(saved: Any, fresh: Any, where: str) -> str | None:
    """The first place where two states differ in form, in words; None if their forms are the same.

    Args:
        saved: as read from a file: tensors, numbers and text in dicts and lists.
        fresh: the state of a new object of the same kind. Values may differ, types and shapes must not; None fits any.
        where: the name of the state in the sentence.
    """
    if isinstance(fresh, torch.Tensor):
        if not isinstance(saved, torch.Tensor) or (saved.shape, saved.dtype) != (fresh.shape, fresh.dtype):
            got = f"{tuple(saved.shape)} {saved.dtype}" if isinstance(saved, torch.Tensor) else short(saved)
            return f"{where} is {got}, expected {tuple(fresh.shape)} {fresh.dtype}"
        return None
    if isinstance(fresh, dict):
        if not isinstance(saved, dict):
            return f"{where} is {short(saved)}, expected named values"
        missing = [k for k in fresh if k not in saved and not str(k).startswith("_")]  # "_...": torch's own, may be new
        if missing:
            return f"{where} lacks {missing[0]}"
        found = (form(saved[k], fresh[k], f"{where}.{k}") for k in fresh if k in saved)
        return next(filter(None, found), None)
    if isinstance(fresh, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(fresh):
            return f"{where} is {short(saved)}, expected {len(fresh)} values"
        found = (form(value, other, f"{where}[{i}]") for i, (value, other) in enumerate(zip(saved, fresh, strict=True)))
        return next(filter(None, found), None)
    kinds = [int if isinstance(value, float) else type(value) for value in (saved, fresh)]
    if kinds[0] is kinds[1] or (fresh is None and isinstance(saved, bool | int | float | str)) or saved is None:
        return None
    return f"{where} is {short(saved)}, expected {type(fresh).__name__}"
