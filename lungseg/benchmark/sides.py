"""Two implementations of one thing, each prepared and timed by a `Side`: in this process, or in a process of its own.

In one process both have the same allocator. In two processes each can be run as its users run it: ours keeps freed
memory, as our training scripts do, and theirs does what Python does by default.
"""

import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import torch
from torch import nn

from lungseg.benchmark.memory import PeakMemory
from lungseg.benchmark.peers import call_factory, peer_code, peer_network
from lungseg.benchmark.timing import Timer, Work
from lungseg.benchmark.works import augmentation_work, forward_work, random_image, random_pair, train_work, warm_up
from lungseg.exits import in_one_line, lacks_memory
from lungseg.training.machine import keep_freed_memory

Kind = Literal["forward", "train", "augmentation"]


@dataclass(frozen=True)
class Subject:
    """What a side computes with, as another process can be told it.

    Attributes:
        against: "MODULE:FACTORY" of a peer; None is ours.
        network, arguments: ours; None is the augmentation.
        keep_memory: whether its own process keeps freed memory.
        threads: of torch in its own process; 0 leaves the number to torch.
    """

    against: str | None
    network: type[nn.Module] | None
    arguments: dict[str, Any]
    keep_memory: bool = True
    threads: int = 0

    def build(self, device: torch.device) -> nn.Module:
        """The network, on a device; a ValueError if it does not take its arguments."""
        torch.manual_seed(0)
        if self.against is not None:
            network = peer_network(self.against)
            with peer_code(self.against, f"cannot be moved to {device}"):
                return network.to(device)
        assert self.network is not None
        try:
            return self.network(**self.arguments).to(device)
        except TypeError as error:
            raise ValueError(f"--arguments do not suit {self.network.__name__}: {error}.") from error


class Side:
    """One of the two: `prepare` what is to be timed, then call `time` as often as wanted."""

    def __init__(self, subject: Subject, timer: Timer):
        self.subject, self.timer = subject, timer
        self.model: nn.Module | None = None
        self.work: Work | None = None
        self.kind: Kind = "forward"
        if subject.network is not None:
            warm_up(timer.device)
            self.model = subject.build(timer.device)

    def prepare(self, kind: Kind, shape: tuple[int, ...], dtype: torch.dtype) -> int | None:
        """Make the work and call it twice: the peak memory of the second call above what was in use before."""
        self.work = None  # frees the optimizer of the work before
        memory = PeakMemory(self.timer.device)
        self.work = self._make(kind, shape, dtype)
        self.kind = kind
        with self._told():
            self.work()
            return memory.of(self.work)

    def time(self) -> float:
        """The seconds of one call."""
        assert self.work is not None
        with self._told():
            return self.timer.once(self.work)

    def _told(self) -> AbstractContextManager[None]:
        """What goes wrong in code from elsewhere is told in a sentence, at whichever call."""
        against = self.subject.against
        return nullcontext() if against is None else peer_code(against, f"{self.kind} fails")

    def _make(self, kind: Kind, shape: tuple[int, ...], dtype: torch.dtype) -> Work:
        if kind == "augmentation":
            pair = random_pair(shape[-1])
            if self.subject.against is None:
                return augmentation_work(*pair)
            function = call_factory(self.subject.against)
            if not callable(function):
                raise ValueError(
                    f"--against {self.subject.against}: expected a function of (image, target) from the factory, got "
                    f"{type(function).__name__}."
                )
            return lambda: function(*pair)
        assert self.model is not None
        image = random_image(shape, self.timer.device)
        if kind == "train":
            return train_work(self.model.train(), image, dtype, classes=self.subject.arguments.get("num_classes", 1))
        return forward_work(self.model.eval(), image, dtype)


# ---- in a process of its own ------------------------------------------------------------------------------------


class RemoteSide:
    """A `Side` in another process; what it raises is raised here."""

    def __init__(self, connection: Connection, name: str):
        self.connection, self.name = connection, name

    def prepare(self, kind: Kind, shape: tuple[int, ...], dtype: torch.dtype) -> int | None:
        return self._ask("prepare", kind, shape, dtype)

    def time(self) -> float:
        return self._ask("time")

    def _ask(self, *message: Any) -> Any:
        try:
            self.connection.send(message)
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            raise ValueError(f"The process of {self.name} has ended. Is there enough memory for it?") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def two_sides(
    ours: Subject, theirs: Subject, timer: Timer, *, as_run: bool
) -> Iterator[Mapping[str, Side | RemoteSide]]:
    """{"ours": ..., "theirs": ...}: in this process, or with `as_run` each in its own, ended at the end."""
    subjects = {"ours": ours, "theirs": replace(theirs, keep_memory=False)}
    if not as_run:
        yield {name: Side(subject, timer) for name, subject in subjects.items()}
        return
    context = multiprocessing.get_context("spawn")
    sides: dict[str, RemoteSide] = {}
    workers: list[BaseProcess] = []
    try:
        for name, subject in subjects.items():
            here, there = context.Pipe()
            workers.append(context.Process(target=serve, args=(there, subject, timer), daemon=True))
            workers[-1].start()
            there.close()  # here; otherwise its end would not be noticed
            sides[name] = RemoteSide(here, name)
        yield sides
    finally:
        for worker in workers:
            worker.terminate()
            worker.join(timeout=5)
            worker.kill()  # threads of a library may keep it alive
            worker.join()


def serve(connection: Connection, subject: Subject, timer: Timer) -> None:
    """The other process: set it up, then answer until nobody asks."""
    with suppress(KeyboardInterrupt):  # from SIGTERM; SystemExit would be taken for one of a peer
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up, as at any end
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
        if subject.keep_memory:
            keep_freed_memory()
        if subject.threads:
            torch.set_num_threads(subject.threads)
        side: Side | None = None
        while True:
            try:
                name, *arguments = connection.recv()
            except EOFError:
                return
            try:
                side = side or Side(subject, timer)
                connection.send(getattr(side, name)(*arguments))
            except Exception as error:
                connection.send(sendable(error))


def sendable(error: Exception) -> Exception:
    """The error, or the like of it if its class is from elsewhere: such a one may not arrive in another process."""
    if type(error).__module__ in ("builtins", "torch"):
        return error
    return (MemoryError if lacks_memory(error) else RuntimeError)(in_one_line(error))
