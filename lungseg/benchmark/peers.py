"""A network from elsewhere beside one of ours: imported by name, filled with the same weights, compared."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lungseg.exits import in_one_line, lacks_memory
from lungseg.weights.load import load_published


@contextmanager
def peer_code(name: str, failed: str) -> Iterator[None]:
    """Run code from elsewhere: what it raises becomes a ValueError of one sentence, unless it lacks memory.

    Args:
        name: "MODULE:FACTORY".
        failed: what has failed then: "forward fails".
    """
    try:
        yield
    except (Exception, SystemExit) as error:  # a user's code may raise anything, and may call exit()
        if lacks_memory(error):
            raise
        raise ValueError(f"--against {name}: {failed}: {in_one_line(error)}") from error


def call_factory(name: str) -> Any:
    """What the factory "MODULE:FACTORY" of a user returns; the module may be a file in the current folder.

    Raises:
        ValueError: in one sentence, if there is no such module or factory, or one of them raises an error.
    """
    module_name, colon, factory_name = name.partition(":")
    if not (module_name and colon and factory_name):
        raise ValueError(f"--against {name}: expected MODULE:FACTORY, such as peers:unet for unet() in peers.py.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):  # one that it imports
            raise ValueError(f"--against {name}: {module_name} cannot be imported: {error}. Install that.") from error
        raise ValueError(
            f"--against {name}: there is no module {module_name}, neither in the current folder nor installed."
        ) from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"--against {name}: cannot be imported: {in_one_line(error)}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        what = "is missing" if factory is None else f"is {type(factory).__name__}"
        raise ValueError(f"--against {name}: expected a function without arguments, but {factory_name} {what}.")
    with peer_code(name, f"{factory_name}() failed"):
        return factory()


def peer_network(name: str) -> nn.Module:
    """The network that a factory returns; a ValueError if it is something else."""
    network = call_factory(name)
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(f"--against {name}: expected a network (an nn.Module) from the factory, got {kind}.")
    return network


def check_output(name: str, theirs: nn.Module, ours: nn.Module, image: Tensor) -> None:
    """Raise a ValueError unless a peer takes the image and returns logits of the same shape as ours does."""
    shape = tuple(image.shape)
    with torch.no_grad(), peer_code(name, f"fails on an image {shape}"):
        out = theirs(image)
    with torch.no_grad():
        expected = tuple(ours(image).shape)
    got = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
    if got != expected:
        raise ValueError(
            f"--against {name}: returns {got} for an image {shape}, and ours {expected}. "
            f"Change the factory, or ours with --arguments and --img-size."
        )


def give_weights(ours: nn.Module, theirs: nn.Module) -> tuple[bool, str]:
    """Load the weights of a peer into ours, all of them or none.

    They fit if both name their tensors alike, or if `load_published` knows the layout and nothing has to be adapted.

    Returns:
        Whether they fit; and why they do not, or what the tensors cannot show, such as the number of attention heads.
    """
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    state = {n: t for n, t in theirs.state_dict().items() if isinstance(t, Tensor)}  # anything may be among them
    if {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in before.items()}:
        ours.load_state_dict(state)
        return True, ""
    try:
        report = load_published(ours, state)
    except ValueError as error:
        return False, str(error).removeprefix("load_published: ")
    if not report.adapted and not report.fresh:
        return True, report.note
    ours.load_state_dict(before)
    changed = f"{len(report.adapted)} tensors would have to be adapted" if report.adapted else ""
    missing = f"{len(report.fresh)} of ours have no counterpart" if report.fresh else ""
    return False, " and ".join(filter(None, (changed, missing)))


@torch.no_grad()
def largest_difference(ours: nn.Module, theirs: nn.Module, image: Tensor) -> tuple[float, float]:
    """The largest difference of the logits, and the largest of their logits; both networks in evaluation mode."""
    a, b = ours(image).float(), theirs(image).float()
    return (a - b).abs().max().item(), b.abs().max().item()
