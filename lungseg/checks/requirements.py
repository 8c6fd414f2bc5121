"""What the checks need before they can run: the package hypothesis, and a Python that executes assert statements."""

import sys
from importlib.util import find_spec
from typing import NoReturn

MISSING = "lungseg.checks needs the package hypothesis, which is not installed: pip install 'lungseg[checks]'"
OPTIMISED = (
    "lungseg.checks consists of assert statements, which python -O and PYTHONOPTIMIZE remove, so that everything would "
    "pass: run Python without them."
)


def check_requirements() -> None:
    """Refuse to import lungseg.checks where its checks cannot run, or would pass whatever they are given.

    `python -m lungseg.checks` prints the reason and ends with exit code 2; in every other program the import raises.
    """
    if find_spec("hypothesis") is None:
        refuse(ModuleNotFoundError(MISSING, name="hypothesis"))
    if not __debug__:  # False under python -O
        refuse(ImportError(OPTIMISED))


def refuse(error: ImportError) -> NoReturn:
    """Raise the error, or print it and exit if this is `python -m`, which would show it as a traceback."""
    # `python -m lungseg.checks` imports this package before it runs __main__.py; until then sys.argv[0] is "-m".
    if sys.argv[:1] == ["-m"]:
        print(error, file=sys.stderr)
        sys.exit(2)
    raise error
