"""python -m lungseg.checks student.py: say which functions of a file are right, and what is wrong with the others.

    python -m lungseg.checks student.py                    everything in the file that has a check (--list)
    python -m lungseg.checks student.py SwinBlock MLP      only these
    python -m lungseg.checks student.py --draw wrong.png   and a picture of the first mistake
    python -m lungseg.checks homework/                     a table of all files of a folder, or of its subfolders
    python -m lungseg.checks --course my_course            write the exercises of the course, or show how far you are

A function or class is checked if the file defines it under the name it has in lungseg; what the file only imports is
not checked. Each check runs in a process of its own with a limit on time and memory. Exit code 0: all passed; 1: a
mistake was found; 2: something could not be judged (not yet written, not importable, nothing to check).

The file is imported, so its code runs: check only files that you would run yourself.
"""

# ruff: noqa: E402
import os
import sys

if sys.path and sys.path[0] in ("", os.getcwd()):  # where a student's random.py would hide Python's: look there last
    sys.path.append(sys.path.pop(0))

import argparse
import difflib
from pathlib import Path

from lungseg.checks import course, report


def main(argv: list[str] | None = None) -> int:
    """Check what the command line names, print the verdicts, and return the exit code."""
    args = parse(argv)
    if args.list:
        print(report.list_exercises())
        return 0
    if args.course:
        return course.main(args.course, time_limit=args.time_limit)
    paths = find_files(args.path)
    if not paths:
        print(not_found(args.path), file=sys.stderr)
        return 2
    show = report.Lines(args.names) if not args.json and args.path.is_file() else report.Counter(len(paths))
    results = report.collect(paths, args.names, args.time_limit, show)
    if args.json:
        print(report.as_json(results, args.names))
    elif args.path.is_dir():
        print(report.table(results, args.names))
    if args.draw:
        print(report.draw_first_mistake(results, args.draw), file=sys.stderr if args.json else sys.stdout)
    return report.exit_code(results, args.names)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line, or a message and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m lungseg.checks",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, nargs="?", help="a Python file, or a folder of them")
    parser.add_argument("names", nargs="*", help="check only these functions and classes")
    parser.add_argument("--course", type=Path, metavar="DIR", help="write the course's exercises to DIR, or judge them")
    parser.add_argument(
        "--draw", type=Path, metavar="OUT.png", help="draw the first mistake: expected, yours, difference"
    )
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    parser.add_argument(
        "--list", action="store_true", help="print the names that have a check, and how they are called"
    )
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS", help="of each check (default: 60)")
    args = parser.parse_args(argv)
    if not args.list and (args.path is None) == (args.course is None):
        parser.error("expected the path of a file or folder, or --course DIR")
    if args.course and (args.draw or args.json):
        parser.error(f"--draw and --json go with a file or a folder, e.g. {args.course}/step05_mask.py")
    if not args.time_limit > 0:
        parser.error(f"--time-limit must be positive, got {args.time_limit:g}")
    if args.draw and args.draw.suffix.lower() != ".png":
        parser.error(f"--draw must end in .png, got {args.draw}")
    if args.draw and not args.draw.parent.is_dir():
        parser.error(f"--draw {args.draw}: there is no folder {args.draw.parent}")
    return args


def find_files(path: Path) -> list[Path]:
    """The file itself, or the .py files of a folder in the order of their names; if it has none, of its subfolders."""
    for pattern in ("*.py", "*/*.py") if path.is_dir() else ():
        if files := sorted(p for p in path.glob(pattern) if not hidden(p.relative_to(path))):
            return files
    return [path] if path.suffix == ".py" and path.is_file() else []


def hidden(path: Path) -> bool:
    """Leftovers of editors and systems: .ipynb_checkpoints, __pycache__, __init__.py."""
    return any(part.startswith((".", "_")) for part in path.parts)


def not_found(path: Path) -> str:
    """What is wrong with a path at which there is nothing to check, and which file may be meant."""
    if path.exists():
        return f"{path}: is not a Python file, nor a folder with some. Give the path of a .py file."
    near = sorted(p.name for p in path.parent.glob("*.py") if p.stem.startswith(path.stem))
    near = near or difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
    return f"{path}: there is no such file." + (f" Is it {path.parent / near[0]}?" if near else "")


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of the output has gone: python -m lungseg.checks ... | head
        code = 141
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at exit
    except OSError as error:  # a folder that does not exist or may not be written
        print(f"{error.filename}: {error.strerror}. Give another path.", file=sys.stderr)
        code = 2
    sys.exit(code)
