"""Every wrong file must fail its check, and the check must name what the student did."""

import sys
from functools import cache
from unittest import mock

import pytest
from mutants import SOLUTIONS, Mutant, as_module
from mutants_data import MUTANTS as OF_DATA
from mutants_networks import MUTANTS as OF_NETWORKS

from lungseg.checks.exercises import EXERCISES
from lungseg.checks.lessons import Wrong

MUTANTS = OF_NETWORKS + OF_DATA


@cache
def judged(mutant: Mutant) -> Wrong | None:
    """What the check says of a wrong file; None if it passes."""
    with mock.patch.object(sys, "path", [str(SOLUTIONS), *sys.path]):
        try:
            EXERCISES[mutant.name].check(getattr(as_module(mutant.source), mutant.name))
        except Wrong as wrong:
            return wrong
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.name}: {m.mistake}")
def test_a_wrong_file_fails_and_its_slip_is_named(mutant):
    wrong = judged(mutant)
    assert wrong is not None, "the wrong file passes"
    assert wrong.slip == mutant.slip, f"expected the slip {mutant.slip!r}, got {wrong.slip!r}:\n{wrong}"


def test_the_rates_are_as_promised(capsys):
    """All are found, and four of five are explained; `pytest -k rates` prints the figures."""
    answers = [judged(mutant) for mutant in MUTANTS]
    killed = sum(wrong is not None for wrong in answers)
    named = sum(wrong is not None and wrong.slip != "" for wrong in answers)
    right = sum(w is not None and w.slip == m.slip != "" for m, w in zip(MUTANTS, answers, strict=True))
    with capsys.disabled():
        print(f"\n{len(MUTANTS)} wrong files: {killed} found; {named} explained, {right} of these correctly")
    assert len(MUTANTS) >= 100 and killed == len(MUTANTS)
    assert right >= 0.8 * named and named >= 0.8 * len(MUTANTS)
    unjudged = {"UNETR", "UNet", "ResNet50UNet", "RRCUNet", "Network", "overfit"}  # the check of SwinUNet is theirs too
    assert {mutant.name for mutant in MUTANTS} == EXERCISES.keys() - unjudged
