"""How a check runs: the settings that all share, and which check belongs to which function of a student's file."""

import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

# hypothesis keeps a small cache next to the code that calls it; a student's folder should stay clean.
set_hypothesis_home_dir(str(Path(tempfile.gettempdir()) / "lungseg-hypothesis"))


def learner_settings(max_examples: int) -> settings:
    """Settings of every check: the whole class sees the same, smallest counterexample, and only one.

    No deadline, because a student's loops may be slow; nothing is stored between runs.
    """
    return settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )


def run_checks(module: ModuleType, checks: Mapping[tuple[str, ...], Callable[..., None]]) -> dict[str, str]:
    """Apply to a module every check whose functions it defines.

    Args:
        module: a student's file, imported.
        checks: names of functions or classes -> the check that takes them, in that order (`lungseg.checks.CHECKS`).

    Returns:
        name of each check -> "" if it passed, else what was wrong, with the counterexample if there is one.
    """
    results = {}
    for names, check in checks.items():
        own = [name for name in names if getattr(getattr(module, name, None), "__module__", None) == module.__name__]
        if own and len(own) < len(names):
            missing = ", ".join(name for name in names if name not in own)
            results[check.__name__] = f"{own[0]} is checked together with {missing}, which this file does not define"
        elif own:
            try:
                check(*(getattr(module, name) for name in names))
                results[check.__name__] = ""
            except (Exception, SystemExit) as error:  # a student's function may raise anything, or call sys.exit
                results[check.__name__] = explain(error)
    return results


def explain(error: BaseException) -> str:
    """An error in words: its message, the counterexample that hypothesis found, and the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(("Falsifying", "Failing"))]
    where = f"  raised in {last.filename}, line {last.lineno}: {last.line}"
    name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return "\n".join([f"{name}{error}", *notes, where])
