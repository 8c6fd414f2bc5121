"""python -m lungseg.checks student.py: report which functions of a file do what they promise.

A function or class is checked when the file defines it under the name it has in lungseg (`shifted_window_mask`,
`dice_loss`, ...), with the same arguments; `augment` is a function (image, target, rng) -> (image, target).
What the file only imports is not checked. Exit code 0: all passed; 1: some failed; 2: nothing was checked.

The file is imported, so its code runs: check only files that you would run yourself.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from lungseg.checks import CHECKS
from lungseg.checks.running import run_checks


def import_file(path: Path) -> ModuleType:
    """Import a Python file (.py) by its path."""
    sys.path.insert(0, str(path.parent.resolve()))  # the file may import its neighbours
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)  # so that torch.py does not hide torch
    assert spec is not None and spec.loader is not None  # Python can load every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main(argv: list[str] | None = None) -> int:
    """Check the file named on the command line, print a line per check, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lungseg.checks", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("file", type=Path, help="a Python file that defines one or more of these functions")
    path = parser.parse_args(argv).file
    if path.suffix != ".py" or not path.is_file():
        print(f"{path}: is not a Python file. Give the path of a .py file.", file=sys.stderr)
        return 2
    try:
        module = import_file(path)
    except (Exception, SystemExit) as error:  # the student's code runs here, and may raise anything
        print(f"{path}: cannot be imported: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    results = run_checks(module, CHECKS)
    if not results:
        known = ", ".join(name for names in CHECKS for name in names)
        print(f"{path}: defines none of the functions that have a check: {known}.", file=sys.stderr)
        return 2
    for name, problem in results.items():
        print(f"FAILED {name}\n{problem}\n" if problem else f"passed {name}")
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
