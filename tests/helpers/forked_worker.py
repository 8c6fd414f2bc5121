"""The worker of the checks without another start of Python: a fork of the tests, which have loaded torch already."""

import os
import sys
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

from lungseg.checks import worker


@contextmanager
def forked_worker():
    """In place of `report.start_worker`: an object with the two pipes that `report.collect` uses."""
    (order, stdin), (stdout, events) = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork where there are threads; here they do nothing
        child = os.fork()
    if child == 0:
        os.dup2(order, 0)
        os.dup2(events, 1)
        os.closerange(3, max(order, stdin, stdout, events) + 1)
        sys.stdin = open(0)
        try:
            worker.main()
        finally:
            os._exit(0)
    os.close(order)
    os.close(events)
    with open(stdin, "w") as for_order, open(stdout) as for_events:
        yield SimpleNamespace(stdin=for_order, stdout=for_events)
    os.waitpid(child, 0)
