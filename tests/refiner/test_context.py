"""The context hands on what the flags say."""

from lungseg.refiner.prediction import CandidateSettings


def test_the_candidates_are_made_as_the_flags_say(context):
    run = context(threshold=0.2, margin=0.3, most=5, crop_size=32, context=1.5, smallest=9)
    assert run.settings == CandidateSettings(0.2, 0.3, 5, 32, 1.5, 9)
    assert [len(run.slices(split)) for split in ("train", "val", "test")] == [8, 2, 2]
