"""A student's file: imported, and searched for what can be checked."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


def import_file(path: Path) -> ModuleType:
    """Import a Python file (.py) by its path."""
    sys.path.insert(0, str(path.parent.resolve()))  # the file may import its neighbours
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)  # so that torch.py does not hide torch
    assert spec is not None and spec.loader is not None  # Python can load every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def own_names(module: ModuleType, names: Iterable[str]) -> list[str]:
    """Those of `names` that the file itself defines; what it imports is not its own work."""
    return [name for name in names if getattr(getattr(module, name, None), "__module__", None) == module.__name__]
