"""A user's Python file, imported by its path: a student's homework, or a network of one's own. Its code runs."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn


def import_file(path: Path) -> ModuleType:
    """Import a Python file (.py); it may import its neighbours."""
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(f"file_{path.stem}", path)  # so that torch.py does not hide torch
    assert spec is not None and spec.loader is not None  # Python can load every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def load_network_class(file: str, name: str) -> type[nn.Module]:
    """The class `name` of a Python file, for a training script's --network.

    Returns:
        A class called "NAME of FILE", so that no checkpoint of it is taken for the network of this library. It takes
        the arguments of a recipe by name and passes on those that the user's class has.

    Raises:
        ValueError: if there is no such file, it cannot be imported, or it has no such class.
    """
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"--network {file}: expected a Python file (.py) with a class {name}.")
    try:
        module = import_file(path)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise ValueError(f"--network {file}: cannot be imported: {type(error).__name__}: {error}") from error
    network = getattr(module, name, None)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise ValueError(f"--network {file}: expected a class {name}, an nn.Module; the file has none.")

    def init(self: nn.Module, **arguments: Any) -> None:
        parameters = inspect.signature(network).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        network.__init__(self, **{k: v for k, v in arguments.items() if takes_any or k in parameters})

    return type(f"{name} of {path.name}", (network,), {"__init__": init})
