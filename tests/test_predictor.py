"""From a checkpoint to probabilities: the network that was saved, at its scale, in the pixels of the input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lungseg.checkpoint import InputSpec, NetworkSpec, load_checkpoint, save_checkpoint
from lungseg.data.ct import resize_image
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset, SliceWriter
from lungseg.decision import PLAIN, Decision
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.predictor import PredictOptions, Predictor, build_network, load_predictor

SLICES = {"size": [16, 16], "scale": [1.0, 1.0], "hu_window": [-1000.0, 400.0], "spacing_mm": 0.7}
VOLUMES = SLICES | {"size": [4, 8, 8], "scale": [1.0, 1.0, 1.0], "spacing_mm": [2.0, 0.7, 0.7]}
TINY = {
    SwinUNet: {"patch_size": 2, "embed_dim": 4, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4},
    UNETR: {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "feature_size": 2}
    | {"skip_layers": (1, 2)},
    ResNet50UNet: {"in_channels": 1, "stem": 4, "widths": (2, 2, 2, 2), "depths": (1, 1, 1, 1)}
    | {"decoder_channels": (2, 2, 2, 2, 2)},
    UNet: {"channels": (2, 4)},
    RRCUNet: {"channels": (2, 4)},
}


def save(path, network_class=UNet, arguments=None, **changes):
    """A checkpoint as a training script writes it, but for the changes; ... leaves an entry out."""
    arguments = TINY[network_class] if arguments is None else arguments
    state = {"network": {"name": network_class.__name__, "arguments": arguments}, "input": SLICES}
    state |= {"model": network_class(**arguments).state_dict()} | changes
    save_checkpoint(path, {name: entry for name, entry in state.items() if entry is not ...})
    return path


class Watch(nn.Module):
    """The logits are the grey values, stretched about 1/2; what comes in is noted."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain, self.seen = gain, []

    def forward(self, image):
        self.seen.append(image.clone())
        return self.gain * (image - 0.5)


def watch(gain=1.0, batch_size=8, **input):
    return Predictor(Watch(gain), InputSpec.from_dict(SLICES | input), batch_size=batch_size)


def grey_of(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


# ---- from a checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", TINY, ids=lambda n: n.__name__)
def test_each_network_comes_back_as_it_was_saved(network, tmp_path):
    volumes = network is RRCUNet
    path = save(tmp_path / "best.pt", network, input=VOLUMES if volumes else SLICES)
    saved = load_checkpoint(path)
    original = network(**TINY[network])
    original.load_state_dict(saved["model"])
    predictor = load_predictor(path)
    assert predictor.spatial_dims == (3 if volumes else 2) and predictor.input == InputSpec.from_dict(saved["input"])
    assert not predictor.network.training
    grey = grey_of(predictor.input.size)
    with torch.no_grad():
        expected = original.eval()(torch.from_numpy(grey)[None, None]).sigmoid()[0, 0].numpy()
    probs = predictor.probs(grey)
    assert probs.dtype == np.float32 and np.array_equal(probs, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input": ...}, "an older version wrote it"),
        ({"network": {"name": "VNet", "arguments": {}}}, "expected one of the networks SwinUNet, UNETR"),
        ({"network": {"name": "UNet", "arguments": {"depth": 3}}}, "UNet cannot be built with .*'depth'"),
        ({"network": {"name": "UNet", "arguments": {"channels": (10**12,)}}}, "cannot be built"),
        ({"network": {"name": "UNet", "arguments": {"channels": (2, 8)}}}, "weights do not fit UNet .*size mismatch"),
        ({"network": {"name": "UNet"}}, "entries are not those"),
        ({"network": ...}, "entries are not those"),
        ({"network": 3}, "entries are not those"),
        ({"model": {}}, "weights do not fit UNet"),
        ({"model": [1, 2]}, "weights do not fit UNet"),
        ({"input": {"size": [16, 16]}}, "entries are not those"),
        ({"input": SLICES | {"size": [16]}}, '"input" holds impossible values'),
        ({"input": SLICES | {"size": [0, 16]}}, '"input" holds impossible values'),
        ({"input": SLICES | {"scale": [1.0, float("nan")]}}, '"input" holds impossible values'),
        ({"input": SLICES | {"scale": [1.0, 1.0, 1.0]}}, '"input" holds impossible values'),
        ({"input": SLICES | {"source_scale": [1.0]}}, '"input" holds impossible values'),
        ({"input": SLICES | {"source_scale": [1.0, -1.0]}}, '"input" holds impossible values'),
        ({"input": SLICES | {"source_scale": "half"}}, "entries are not those"),
        ({"input": SLICES | {"hu_window": [400.0, -1000.0]}}, '"input" holds impossible values'),
        ({"input": SLICES | {"spacing_mm": -0.7}}, '"input" holds impossible values'),
        ({"input": SLICES | {"spacing_mm": "small"}}, "entries are not those"),
        ({"input": VOLUMES}, "does not take grey images with 3 sides"),
        ({"arguments": {"in_channels": 2, "channels": (2, 4)}}, "does not take grey images with 2 sides"),
        ({"arguments": {"num_classes": 3, "channels": (2, 4)}}, "returns 3 maps per image, expected 1, of lesions"),
        ({"input": SLICES | {"classes": ["a", "b"]}}, "returns 1 maps per image, expected 2, of the classes a, b"),
        ({"input": SLICES | {"classes": ["a", "a"]}}, "line 2 is 'a', and so is line 1"),
        ({"input": SLICES | {"classes": [1, 2]}}, "entries are not those"),
        ({"input": SLICES | {"classes": 2}}, "entries are not those"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_sentence(changes, words, tmp_path):
    path = save(tmp_path / "odd.pt", **changes)
    with pytest.raises(ValueError, match=words) as refusal:
        load_predictor(path)
    sentence = str(refusal.value)
    assert sentence.startswith(f"{path}: ") and "\n" not in sentence and len(sentence) < 500


# ---- several networks, variations, a decision -------------------------------------------------------------------


def test_several_checkpoints_give_the_mean_of_their_probabilities(tmp_path):
    torch.manual_seed(1)
    one, two = save(tmp_path / "one.pt"), save(tmp_path / "two.pt", SwinUNet)
    grey = grey_of((20, 33))
    apart = [load_predictor(path).probs(grey).astype(np.float64) for path in (one, two)]
    both = load_predictor([one, two])
    assert np.allclose(both.probs(grey), (apart[0] + apart[1]) / 2, rtol=0, atol=1e-7)
    assert np.abs(apart[0] - apart[1]).max() > 1e-3  # otherwise any mean would do
    assert both.name == "UNet + SwinUNet" and both.network is both.networks[0]
    assert np.array_equal(load_predictor([one, one]).probs(grey), load_predictor(one).probs(grey))


def test_checkpoints_of_other_images_are_not_averaged(tmp_path):
    other = SLICES | {"hu_window": [-1350.0, 150.0]}
    paths = [save(tmp_path / "a.pt"), save(tmp_path / "b.pt", input=other)]
    with pytest.raises(ValueError, match=r"a.pt and .*b.pt cannot be averaged: hu_window") as refusal:
        load_predictor(paths)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("tta", ["flips", "turns"])
def test_variations_are_averaged_inside_each_window(tta, tmp_path):
    """A slice of one window, and a network that prefers one direction, as an untrained one does."""
    path = save(tmp_path / "best.pt")
    predictor, plain = (load_predictor(path, tta=kind) for kind in (tta, "none"))
    grey = grey_of((16, 16))
    logits = [torch.logit(torch.from_numpy(plain.probs(grey[::a, ::b].copy()))).numpy()[::a, ::b]
              for a in (1, -1) for b in (1, -1)]  # fmt: skip
    if tta == "turns":
        logits += [torch.logit(torch.from_numpy(plain.probs(grey.T[::a, ::b].copy()))).numpy()[::a, ::b].T
                   for a in (1, -1) for b in (1, -1)]  # fmt: skip
    expected = 1 / (1 + np.exp(-np.mean(np.array(logits, np.float64), axis=0)))
    assert np.allclose(predictor.probs(grey), expected, rtol=0, atol=1e-6)
    assert np.abs(predictor.probs(grey) - plain.probs(grey)).max() > 1e-4
    long = grey_of((20, 45))
    assert predictor.probs(long).shape == (20, 45)  # several windows, and turns of an oblong image


def test_the_decision_of_a_checkpoint_is_used_unless_numbers_are_given(tmp_path):
    decided = save(tmp_path / "best.pt", decision={"threshold": 0.35, "min_pixels": 4})
    chosen = load_predictor(decided).decision
    assert chosen == Decision(0.35, 4)
    assert PredictOptions().decision(chosen) == chosen
    assert PredictOptions(threshold=0.5).decision(chosen) == PLAIN  # the two numbers belong together
    assert PredictOptions(min_pixels=9).decision(chosen) == Decision(0.5, 9)
    assert load_predictor(save(tmp_path / "old.pt")).decision == PLAIN
    assert load_predictor([decided, decided]).decision == PLAIN


@pytest.mark.parametrize("entry", [{"threshold": 2.0, "min_pixels": 0}, {"threshold": 0.5}, "half", 3])
def test_a_decision_that_is_none_is_refused(entry, tmp_path):
    with pytest.raises(ValueError, match="^.*odd.pt: [^\n]+$"):
        load_predictor(save(tmp_path / "odd.pt", decision=entry))


def test_the_smallest_component_is_as_large_as_in_the_training():
    """At a scale of 1/2 two training pixels are eight of the image; slices of a volume are looked at one by one."""
    predictor = watch(scale=[0.5, 0.5])
    probs = np.zeros((12, 12), np.float32)
    probs[:2, :3] = 0.9  # 6 pixels
    probs[5:9, 5:7] = 0.9  # 8
    lesions = predictor.lesions(probs, Decision(0.5, 2))
    assert lesions.sum() == 8 and lesions[5, 5] and not lesions[0, 0]
    assert predictor.lesions(probs, Decision(0.5, 2), scale=(1.0, 1.0)).sum() == 14
    column = np.zeros((9, 12, 12), np.float32)
    column[:, 3, 3] = 0.9  # one pixel in each of nine slices
    assert not predictor.lesions(column, Decision(0.5, 2)).any()
    volumes = watch(**VOLUMES)
    assert volumes.lesions(column, Decision(0.5, 9)).sum() == 9 and not volumes.lesions(column, Decision(0.5, 10)).any()


def test_a_checkpoint_with_averaged_weights_predicts_with_them(tmp_path):
    averaged = {
        name: value + 0.1 * value.is_floating_point() for name, value in UNet(**TINY[UNet]).state_dict().items()
    }
    path = save(tmp_path / "last.pt", ema={"steps": 3, "weights": averaged})
    state = load_predictor(path).network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in averaged.items())


# ---- sizes ------------------------------------------------------------------------------------------------------


@given(
    shape=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    scale=st.tuples(*[st.floats(0.1, 3)] * 2),
    value=st.floats(0, 1),
)
@settings(max_examples=50)
def test_a_flat_image_has_flat_probabilities_of_its_own_size(shape, scale, value):
    probs = watch(gain=8, scale=list(scale)).probs(np.full(shape, value, np.float32))
    assert probs.shape == tuple(shape) and probs.dtype == np.float32
    assert np.allclose(probs, 1 / (1 + np.exp(-8 * (value - 0.5))), atol=1e-4)


@given(shape=st.tuples(*[st.integers(1, 30)] * 3), scale=st.tuples(*[st.floats(0.2, 2)] * 3))
@settings(max_examples=20)
def test_volumes_are_scaled_along_all_three_sides(shape, scale):
    predictor = watch(size=[64] * 3, scale=list(scale), spacing_mm=None)
    assert predictor.probs(np.full(shape, 0.5, np.float32)).shape == shape
    (seen,) = predictor.network.seen
    assert seen.shape[2:] == tuple(max(1, round(n * s)) for n, s in zip(shape, scale, strict=True))


def test_the_network_sees_what_it_saw_in_training(tmp_path):
    """A folder of 40 x 40 slices, trained at 20 x 20: the same picture, up to the rounding of its grey levels."""
    image = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    with SliceWriter(tmp_path / "data") as out:
        out.add(ImageRecord("a", "a", "train"), image, np.zeros_like(image))
    trained_on, _, _ = SliceDataset(tmp_path / "data", size=20)[0]
    predictor = watch(size=[20, 20], scale=[0.5, 0.5])
    predictor.probs(image / np.float32(255))
    (seen,) = predictor.network.seen  # one window
    assert seen.shape == (1, 1, 20, 20)
    assert (seen[0] - trained_on).abs().max() <= 0.501 / 255


def test_a_larger_slice_is_scaled_by_the_same_factor_so_that_lesions_keep_their_size():
    predictor = watch(size=[20, 20], scale=[0.5, 0.25])
    predictor.probs(grey_of((60, 80)))  # 30 x 20 at that scale
    assert {tuple(seen.shape[2:]) for seen in predictor.network.seen} == {(20, 20)}
    assert sum(len(seen) for seen in predictor.network.seen) == 2


def test_shrinking_looks_at_every_pixel_in_slices_and_volumes():
    for shape in [(32, 32), (32, 32, 32)]:
        grey = (np.indices(shape).sum(axis=0) % 2).astype(np.float32)  # a chess board
        predictor = watch(size=[16] * len(shape), scale=[0.5] * len(shape), spacing_mm=None)
        predictor.probs(grey)
        inner = predictor.network.seen[0][(..., *[slice(2, -2)] * len(shape))]
        assert torch.allclose(inner, torch.full_like(inner, 0.5), atol=0.01)


@given(
    shape=st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(2, 9)), after=st.tuples(*[st.integers(1, 9)] * 3)
)
@settings(max_examples=30)
def test_a_volume_is_resized_along_each_side_by_itself(shape, after):
    """An outer product of three profiles stays one, and each is resized as the profile of a slice would be."""
    profiles = [grey_of(n, seed=k) for k, n in enumerate(shape)]
    volume = np.einsum("i,j,k->ijk", *profiles)
    predictor = watch(size=[16] * 3, scale=[m / n for m, n in zip(after, shape, strict=True)], spacing_mm=None)
    predictor.probs(volume)
    resized = [resize_image(p[:, None], (m, 1))[:, 0] for p, m in zip(profiles, after, strict=True)]
    assert np.allclose(predictor.network.seen[0][0, 0], np.einsum("i,j,k->ijk", *resized), atol=1e-5)


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.0, 2.0])
def test_what_is_found_lies_where_it_is(scale):
    rows, cols = np.mgrid[:96, :64]
    disc = np.clip(12.5 - np.hypot(rows - 30.25, cols - 40.75), 0, 1).astype(np.float32)
    probs = watch(gain=20, size=[256, 256], scale=[scale, scale]).probs(disc)
    assert [(a * probs).sum() / probs.sum() for a in (rows, cols)] == pytest.approx([30.25, 40.75], abs=0.1)
    assert ((probs > 0.5) != (disc > 0.5)).sum() < 30  # of a border of 75 pixels


def test_logits_are_scaled_back_not_probabilities():
    """Between a pixel of -1 and one of 9 the border lies a tenth of the way; of probabilities, nearly halfway."""
    grey = np.array([[0.4, 0.4, 1.4, 1.4]], np.float32) / 1.4  # two pixels at half the scale
    predictor = watch(size=[8, 8], scale=[1.0, 0.5])
    predictor.network.forward = lambda image: torch.tensor([-1.0, 9.0]).reshape(1, 1, 1, 2)
    # pixel centres at 0.5 and 2.5 of the output's; in between 1/4 and 3/4 of the way
    expected = torch.tensor([-1.0, -1 + 10 / 4, -1 + 30 / 4, 9.0]).sigmoid()
    assert np.allclose(predictor.probs(grey), expected.numpy()[None], atol=1e-6)


# ---- slices and volumes -----------------------------------------------------------------------------------------


def test_a_network_for_slices_takes_a_volume_slice_by_slice_in_batches():
    predictor = watch(batch_size=3)
    volume = grey_of((7, 12, 16))
    probs = predictor.probs(volume)
    assert [len(seen) for seen in predictor.network.seen] == [3, 3, 1]
    assert np.array_equal(probs, np.stack([predictor.probs(slice_) for slice_ in volume]))


def test_a_network_for_volumes_takes_a_volume_as_one_and_no_slice():
    predictor = watch(**VOLUMES)
    volume = grey_of((6, 20, 9))
    assert np.allclose(predictor.probs(volume), 1 / (1 + np.exp(0.5 - volume)), atol=1e-6)
    assert {tuple(seen.shape[2:]) for seen in predictor.network.seen} == {(4, 8, 8)}
    with pytest.raises(ValueError, match="trained on volumes, and this is a single slice"):
        predictor.probs(volume[0])


def test_the_windows_are_as_asked_for(tmp_path):
    path = save(tmp_path / "best.pt")
    predictor = load_predictor(path, overlap=0.0, batch_size=5)
    sizes = []
    predictor.network.register_forward_hook(lambda module, inputs, logits: sizes.append(len(logits)))
    predictor.probs(grey_of((48, 48)))
    assert sizes == [5, 4]  # 3 x 3 windows of 16 x 16


def test_hu_become_the_grey_values_of_the_training():
    hu = np.array([-3000, -1000, -300, 50, 400, 3000], np.int16)
    assert watch().grey(hu) == pytest.approx([0, 0, 0.5, 0.75, 1, 1])
    assert watch(hu_window=[-1400, 200]).grey(hu)[2] == pytest.approx(1100 / 1600)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_any_floating_point_image_will_do_and_is_left_alone(dtype):
    grey = grey_of((9, 9)).astype(dtype)
    before = grey.copy()
    assert np.allclose(watch().probs(grey), watch().probs(grey.astype(np.float32)), atol=1e-6)
    assert np.array_equal(grey, before)


@pytest.mark.parametrize(
    ("grey", "words"),
    [
        (np.zeros(4, np.float32), r"expected grey values \(H, W\) or \(D, H, W\)"),
        (np.zeros((0, 4), np.float32), r"got \(0, 4\)"),
        (np.zeros((4, 4), np.uint8), "got .* uint8"),
        (np.full((4, 4), -850.0), "got -850 to -850. Use Predictor.grey"),
        (np.full((4, 4), np.nan), "in \\[0, 1\\], got nan"),
    ],
)
def test_what_is_no_grey_image_is_named(grey, words):
    with pytest.raises(ValueError, match=words):
        watch().probs(grey)


# ---- what a script decides, and pixels that do not fit ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("threshold", (1e-9, 0.999), (0.0, 1.0, -1.0, float("nan"))),
        ("overlap", (0.0, 0.999), (-0.1, 1.0, float("nan"))),
        ("batch_size", (1, 1000), (0, -1)),
    ],
)
def test_options_that_cannot_work_are_refused_in_the_words_of_their_flag(name, good, bad):
    for value in good:
        assert getattr(PredictOptions(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must .*, got {value}."):
            PredictOptions(**{name: value})


@pytest.mark.parametrize("spacing", [None, [None, None, None], [None, 0.7, 0.7]])
def test_a_network_of_volumes_of_unknown_spacing_can_be_used(spacing, tmp_path):
    path = save(tmp_path / "best.pt", RRCUNet, input=VOLUMES | {"spacing_mm": spacing})
    assert load_predictor(path).scale_for((9, 9, 9), (9.0, 0.7, 0.7)) == ((1.0, 1.0, 1.0), None)


# ---- from the slices of a scanner to those of the training ------------------------------------------------------

SHRUNK = SLICES | {"size": [20, 20], "scale": [0.8, 0.8], "source_scale": [0.4, 0.4], "stretched": False}


def test_the_two_steps_of_the_preparation_are_repeated(tmp_path):
    """A slice of 50 x 50 was written with 25 x 25 pixels, and read at 20 x 20."""
    hu = np.random.default_rng(0).uniform(-1000, 400, (50, 50))
    predictor = Predictor(Watch(), InputSpec.from_dict(SHRUNK))
    file = resize_image(predictor.grey(hu), (25, 25))
    scale, said = predictor.scale_for((50, 50), source_size=(50, 50))
    predictor.probs(predictor.grey(hu), scale)
    predictor.probs(file)
    of_slice, of_file = predictor.network.seen
    assert of_slice.shape == (1, 1, 20, 20) and torch.equal(of_slice, of_file) and said is None


@pytest.mark.parametrize(("shape", "scale"), [((20, 30), (0.5, 2.0)), ((6, 20, 30), (0.5, 2.0))])
def test_a_given_scale_takes_the_place_of_that_of_the_files(shape, scale):
    predictor = watch(size=[64, 64], scale=[3.0, 3.0])
    assert predictor.probs(grey_of(shape), scale).shape == shape
    assert {seen.shape[2:] for seen in predictor.network.seen} == {(10, 60)}


def test_a_volume_with_other_voxels_is_brought_to_those_of_the_training():
    predictor = Predictor(Watch(), InputSpec.from_dict(VOLUMES | {"size": [64, 64, 64]}))  # voxels of 2 x 0.7 x 0.7 mm
    scale, said = predictor.scale_for((6, 20, 30), (4.0, 0.7, 0.35))
    assert predictor.probs(grey_of((6, 20, 30)), scale).shape == (6, 20, 30)
    assert predictor.network.seen[0].shape[2:] == (12, 20, 15) and "resampled" in said


def test_a_slice_of_any_size_is_stretched_if_those_of_the_training_were():
    predictor = Predictor(
        Watch(), InputSpec.from_dict(SLICES | {"scale": [0.5, 0.5], "source_scale": None, "stretched": True})
    )
    for shape in [(32, 32), (50, 23), (16, 16), (3, 9, 70)]:
        probs = predictor.probs(grey_of(shape))
        assert probs.shape == shape and predictor.network.seen[-1].shape[2:] == (16, 16)


# ---- lesion classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (40, 23), (3, 16, 20)])
def test_several_classes_have_a_map_each_as_if_each_were_a_network(shape, tmp_path):
    torch.manual_seed(1)
    three = {"num_classes": 3, "channels": (2, 4)}
    path = save(tmp_path / "best.pt", arguments=three, input=SLICES | {"classes": ["a", "b", "c"]})
    predictor, saved, grey = load_predictor(path), load_checkpoint(path), grey_of(shape)
    probs = predictor.probs(grey)
    assert predictor.classes == ("a", "b", "c") and probs.shape == (3, *shape) and probs.dtype == np.float32
    for k in range(3):
        alone = saved["model"] | {name: saved["model"][name][k : k + 1] for name in ("head.weight", "head.bias")}
        one = Predictor(build_network(NetworkSpec("UNet", {"channels": (2, 4)}), alone), InputSpec.from_dict(SLICES))
        np.testing.assert_allclose(probs[k], one.probs(grey), rtol=1e-4, atol=1e-6)
    labels, middle = predictor.labels(probs, 0.5), float(np.median(probs))
    assert labels.shape == shape and np.array_equal(labels > 0, predictor.any_class(probs) > 0.5)
    assert np.array_equal(predictor.labels(probs, middle) > 0, predictor.any_class(probs) > middle)


def test_without_several_classes_a_label_is_lesion_or_not():
    for names in ([], ["nodule"]):
        predictor = watch(classes=names)
        probs = predictor.probs(grey_of((16, 16)))
        assert predictor.classes == () and probs.shape == (16, 16)
        assert np.array_equal(predictor.labels(probs, 0.4), probs > 0.4) and predictor.any_class(probs) is probs


# ---- neighbours as channels -------------------------------------------------------------------------------------


class Order(nn.Module):
    """Logits in which the channels can be told apart: one tells the order of three slices."""

    def forward(self, image):
        assert image.shape[1] == 3
        return (image * torch.tensor([1.0, 2.0, 4.0])[:, None, None]).sum(dim=1, keepdim=True)


def order_of(*greys):
    return 1 / (1 + np.exp(-np.dot([1, 2, 4], greys)))


def test_a_network_with_neighbours_is_shown_those_of_a_volume_and_of_a_stack_and_a_lone_slice_thrice():
    predictor = Predictor(Order(), InputSpec.from_dict(SLICES | {"neighbours": 1}), batch_size=2)
    volume = np.repeat([0.1, 0.2, 0.3, 0.4], 12).reshape(4, 3, 4).astype(np.float32)
    expected = [order_of(*greys) for greys in ((0.1, 0.1, 0.2), (0.1, 0.2, 0.3), (0.2, 0.3, 0.4), (0.3, 0.4, 0.4))]
    assert predictor.probs(volume) == pytest.approx(np.broadcast_to(np.reshape(expected, (4, 1, 1)), (4, 3, 4)))
    assert predictor.probs(volume, (2.0, 2.0))[2] == pytest.approx(np.full((3, 4), expected[2]))
    stack = predictor.probs(volume[1:], is_stack=True)
    assert stack.shape == (3, 4) and stack == pytest.approx(np.full((3, 4), expected[2]))
    assert predictor.probs(volume[1]) == pytest.approx(np.full((3, 4), order_of(0.2, 0.2, 0.2)))
    assert predictor.alone(volume) is None and "expects 1 slices below and above" in predictor.alone(volume[1])
    assert watch().alone(volume[1]) is None


def test_a_checkpoint_says_how_many_neighbours_and_an_older_one_none(tmp_path):
    arguments = TINY[UNet] | {"in_channels": 3}
    three = save(tmp_path / "three.pt", UNet, arguments, input=SLICES | {"neighbours": 1, "whole_size": [64, 48]})
    assert load_predictor(three).input.neighbours == 1 and load_predictor(three).input.whole_size == (64, 48)
    assert load_predictor(save(tmp_path / "old.pt")).input.neighbours == 0
    resnet = save(tmp_path / "grey.pt", ResNet50UNet, TINY[ResNet50UNet] | {"in_channels": 3, "grey_input": True},
                  input=SLICES | {"neighbours": 1})  # fmt: skip
    assert load_predictor(resnet).probs(grey_of((3, 8, 8))).shape == (3, 8, 8)
    with pytest.raises(ValueError, match="does not take grey images with 2 sides and 3 channels"):
        load_predictor(save(tmp_path / "wrong.pt", input=SLICES | {"neighbours": 1}))
