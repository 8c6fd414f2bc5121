"""The folder of slices: what is written is what is read, and whatever is broken is named."""

import os
import pickle
import re
import shutil
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lungseg.data import slices as folder_module
from lungseg.data.ct import resize_target
from lungseg.data.manifest import ImageRecord, describe_folder, read_manifest
from lungseg.data.slices import SliceDataset, SliceWriter, check_folder, read_slice, slice_size

SPLIT_OF = {"a": "train", "b": "train", "c": "val", "d": "test"}


def pair(seed, size=24):
    rng = np.random.default_rng(seed)
    image, target = rng.integers(0, 256, (size, size), dtype=np.uint8), np.zeros((size, size), np.uint8)
    target[4 : 5 + seed % 9, 6:12] = 1
    return image, target


def write_small(folder):
    """Eight slices of four groups; returns what was put in, by id."""
    content = {}
    with SliceWriter(folder) as out:
        for number, group in enumerate("aabbccdd"):
            id_ = f"{group}_{number}"
            content[id_] = pair(number)
            out.add(ImageRecord(id_, group, SPLIT_OF[group], "solid", 0.7), *content[id_])
    return content


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder") / "slices"
    write_small(path)
    return path


@pytest.fixture
def small(master, tmp_path):
    return shutil.copytree(master, tmp_path / "slices")


# ---- round trip --------------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read(tmp_path):
    content = write_small(tmp_path / "f")
    records = read_manifest(tmp_path / "f")
    assert [r.id for r in records] == list(content)
    for record in records:
        image, target = read_slice(tmp_path / "f", record)
        assert np.array_equal(image, content[record.id][0]) and np.array_equal(target, content[record.id][1])
    assert check_folder(tmp_path / "f") == []
    assert describe_folder(tmp_path / "f").endswith(
        "8 slices: 4 train (of 2 groups), 2 val (of 1 groups), 2 test (of 1 groups)"
    )


def test_sixteen_bits_survive(tmp_path):
    image = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    record = ImageRecord("deep", "p", "train", bits=16)
    with SliceWriter(tmp_path / "f") as out:
        out.add(record, image, np.zeros((8, 8), np.uint8))
    assert np.array_equal(read_slice(tmp_path / "f", record)[0], image)
    item, _, _ = SliceDataset(tmp_path / "f")[0]
    assert item.max() == pytest.approx(63000 / 65535)


def test_masks_of_0_and_1_are_masks_of_0_and_255(small):
    path = small / "masks/a_0.png"
    record = read_manifest(small)[0]
    before = read_slice(small, record)[1]
    Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    assert check_folder(small) == []
    assert np.array_equal(read_slice(small, record)[1], before) and before.max() == 1


# ---- damage ------------------------------------------------------------------------------------------------


def save(array, path, **options):
    Image.fromarray(array).save(path, **options)


def rename(folder, pattern, name):
    """Every file of a pattern, {} in its new name is the old one without suffix."""
    for path in folder.glob(pattern):
        path.rename(path.with_name(name.format(path.stem)))


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def png_without_end(path):
    path.write_bytes(path.read_bytes()[:-12])


def lying_header(path, side):
    """A PNG that claims to be side x side pixels."""
    data = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])


def edit_row(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def animate(path):
    first, second = Image.open(path), Image.fromarray(GREY)
    first.save(path, save_all=True, append_images=[second])


def turn(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.open(path).save(path, exif=exif)


IMAGE, MASK, TABLE = "images/a_0.png", "masks/a_0.png", "manifest.csv"
GREY = np.zeros((24, 24), np.uint8)
DAMAGES = {
    "image missing": (lambda d: (d / IMAGE).unlink(), IMAGE, "is missing. Add it"),
    "mask missing": (lambda d: (d / MASK).unlink(), MASK, "is missing. Add it"),
    "size": (lambda d: save(GREY[:20], d / MASK), MASK, "is 20 x 24 but its image is 24 x 24"),
    "rgb": (
        lambda d: save(np.zeros((24, 24, 3), np.uint8), d / IMAGE),
        IMAGE,
        "8 bits, got RGB. Convert it to 8-bit grey, or the whole folder with prepare_data.py --images --masks",
    ),
    "alpha": (
        lambda d: save(np.zeros((24, 24, 4), np.uint8), d / IMAGE),
        IMAGE,
        "8 bits, got RGB with alpha. Convert",
    ),
    "grey alpha": (
        lambda d: Image.new("LA", (24, 24)).save(d / MASK),
        MASK,
        "8 bits, got grey with alpha. Convert",
    ),
    "palette": (
        lambda d: Image.new("P", (24, 24)).save(d / MASK),
        MASK,
        "8 bits, got palette. Convert",
    ),
    "1 bit": (
        lambda d: Image.new("1", (24, 24)).save(d / MASK),
        MASK,
        "8 bits, got 1-bit. Convert",
    ),
    "16 bit": (
        lambda d: save(GREY.astype(np.uint16), d / IMAGE),
        IMAGE,
        "got 16-bit. Convert .*or write bits = 16",
    ),
    "16-bit mask": (
        lambda d: save(GREY.astype(np.uint16), d / MASK),
        MASK,
        "8 bits, got 16-bit. Convert",
    ),
    "bits 16 unmet": (
        lambda d: edit_row(d / TABLE, "400,8", "400,16"),
        IMAGE,
        "expected a grey PNG of 16 bits, got 8-bit. Convert",
    ),
    "mask values": (lambda d: save(GREY + 7, d / MASK), MASK, "holds the values 7. A mask holds 0 and 255"),
    "grey mask": (
        lambda d: save(np.arange(576, dtype=np.uint8).reshape(24, 24), d / MASK),
        MASK,
        "0, 1, 2, 3, 4, ...",
    ),
    "1 and 255": (
        lambda d: save(np.kron(np.array([[1, 255]], np.uint8), GREY[:, :12] + 1), d / MASK),
        MASK,
        "1, 255",
    ),
    "truncated": (
        lambda d: (d / IMAGE).write_bytes((d / IMAGE).read_bytes()[:300]),
        IMAGE,
        "damaged or cut short",
    ),
    "end cut off": (lambda d: png_without_end(d / IMAGE), IMAGE, "damaged or cut short"),
    "byte flipped": (lambda d: flip_a_byte(d / IMAGE), IMAGE, "damaged or cut short"),
    "huge": (lambda d: lying_header(d / IMAGE, 60000), IMAGE, "claims more than [0-9]+ pixels"),
    "large": (lambda d: lying_header(d / IMAGE, 10000), IMAGE, "claims more than [0-9]+ pixels"),
    "long": (lambda d: os.truncate(d / IMAGE, 2**28 + 1), IMAGE, "has more than 256 MiB, too many for a slice"),
    "a pipe as image": (lambda d: ((d / IMAGE).unlink(), os.mkfifo(d / IMAGE)), IMAGE, "it is a pipe"),
    "endless": (lambda d: ((d / MASK).unlink(), (d / MASK).symlink_to("/dev/zero")), MASK, "it is a pipe, a device"),
    "animated": (lambda d: animate(d / IMAGE), IMAGE, "is an animation of 2 pictures. Export each"),
    "turned": (lambda d: turn(d / IMAGE), IMAGE, "asks viewers to rotate or mirror it .EXIF orientation"),
    "not a png": (lambda d: (d / IMAGE).write_text("hello"), IMAGE, "is not a PNG image"),
    "empty file": (lambda d: (d / IMAGE).write_bytes(b""), IMAGE, "is not a PNG image"),
    "jpeg": (lambda d: save(GREY, d / IMAGE, format="JPEG"), IMAGE, "is not a PNG image"),
    "a folder": (lambda d: ((d / IMAGE).unlink(), (d / IMAGE).mkdir()), IMAGE, "cannot be read"),
    "extra image": (lambda d: save(GREY, d / "images/x.png"), "images/x.png", "has no row in the manifest"),
    "extra mask": (lambda d: save(GREY, d / "masks/x.png"), "masks/x.png", "has no row in the manifest"),
    "id twice": (lambda d: edit_row(d / TABLE, "a_1,", "a_0,"), "'a_0'", "appears twice"),
    "climbing id": (lambda d: edit_row(d / TABLE, "a_0,", "../a_0,"), "'../a_0'", "is not a plain file name"),
    "windows path": (lambda d: edit_row(d / TABLE, "a_0,", "..\\a_0,"), "a_0", "is not a plain file name"),
    "no id": (lambda d: edit_row(d / TABLE, "a_0,", ","), "line 2", "id '' is not a plain file name"),
    "no group": (lambda d: edit_row(d / TABLE, "a_0,a", "a_0,"), "'a_0'", "has no group"),
    "leak": (lambda d: edit_row(d / TABLE, "a,train", "a,test"), "'a'", "is in test and in train"),
    "split name": (
        lambda d: edit_row(d / TABLE, "a,train", "a,training"),
        "'a_0'",
        "has the split 'training'",
    ),
    "spacing": (
        lambda d: edit_row(d / TABLE, "0.7", "0;7"),
        "'a_0'",
        "has spacing_mm '0;7', which is not a number",
    ),
    "bits": (lambda d: edit_row(d / TABLE, "400,8", "400,12"), "'a_0'", "has bits 12"),
    "short row": (
        lambda d: edit_row(d / TABLE, "a_0,a,train,solid,0.7,-1000,400,8", "a_0"),
        "'a_0'",
        "has no group",
    ),
    "bars": (lambda d: (d / TABLE).write_text("id|group\na|b\n"), TABLE, "has no column id"),
    "near miss": (lambda d: edit_row(d / TABLE, "split,", "splits,"), TABLE, "no split, but there is 'splits'"),
    "one column twice": (lambda d: edit_row(d / TABLE, "label", " Split"), TABLE, "'split' and 'Split' are the same"),
    "unit": (lambda d: edit_row(d / TABLE, "0.7", "0.7 mm"), "'a_0'", "spacing_mm '0.7 mm', .* without a unit"),
    "decimal comma": (lambda d: edit_row(d / TABLE, "0.7", '"0,7"'), "'a_0'", "spacing_mm '0,7', .* point as in 0.7"),
    "shifted": (lambda d: edit_row(d / TABLE, "solid", "a, b, c, d"), TABLE, "line 2 has 13 cells and the header 10"),
    "two ids in capitals": (lambda d: edit_row(d / TABLE, "a_1,", "A_0,"), "'A_0'", "are one file name on Windows"),
    "two groups in capitals": (lambda d: edit_row(d / TABLE, "c_4,c", "c_4,A"), "'A'", "'a' is in train and 'A' in"),
    "lone quote": (lambda d: edit_row(d / TABLE, "solid", '"solid'), TABLE, "cannot be read as a table"),
    "a pipe": (lambda d: ((d / TABLE).unlink(), os.mkfifo(d / TABLE)), TABLE, "it is a pipe"),
    "another table": (lambda d: (d / TABLE).rename(d / "manifest.xlsx"), "manifest.xlsx", "but no manifest.csv"),
    "no rows": (lambda d: (d / TABLE).write_text("id,group,split\n"), TABLE, "lists no slice"),
    "not text": (
        lambda d: (d / TABLE).write_bytes(b"id,group\n\xff\xfe\x00"),
        TABLE,
        "cannot be read as a table",
    ),
    "no images": (lambda d: shutil.rmtree(d / "images"), "slices", "holds no folder images/"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named_with_its_file_and_nothing_else_is_accused(small, name):
    damage, where, what = DAMAGES[name]
    damage(small)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problems = check_folder(small)
    hits = [p for p in problems if where in p and re.search(what, p)]
    assert len(hits) == 1, problems
    innocent = [p for p in problems if not any(word in p for word in (where, "a_0", "a_1"))]
    assert not innocent, innocent


def test_too_little_memory_for_a_picture_is_a_sentence(small, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(ValueError, match="a_0.png needs more memory than there is"):
        read_slice(small, read_manifest(small)[0])


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_cannot_be_trained_on(small, name):
    damage, _, _ = DAMAGES[name]
    damage(small)
    if name.startswith("extra"):
        assert len(SliceDataset(small)) == 8  # files without a row are no part of the data set
        return
    with pytest.raises(ValueError, match=r"\.$"):  # a sentence
        dataset = SliceDataset(small)
        for i in range(len(dataset)):
            dataset[i]


def test_a_folder_as_systems_and_cameras_leave_it_is_read_all_the_same(small):
    expected = [SliceDataset(small)[i] for i in range(8)]
    rename(small / "images", "a_*.png", "{}.PNG")
    rename(small / "masks", "*.png", "{}.PNG")
    for name in ("images", "masks"):
        (small / name / "__MACOSX").mkdir()
        for junk in ("._a_0.png", ".DS_Store", "Thumbs.db", "__MACOSX/._a_0.png"):
            (small / name / junk).write_bytes(b"\0\5\x16\7 Mac OS X")
    assert check_folder(small) == []
    found = [SliceDataset(small)[i] for i in range(8)]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(found, expected, strict=True))
    assert slice_size(small, read_manifest(small)[0]) == (24, 24)
    save(GREY, small / "images/x.PNG", format="PNG")
    (problem,) = check_folder(small)
    assert "x.PNG has no row in the manifest" in problem


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("{}_mask.png", "masks/a_0.png is missing, but there is a_0_mask.png. Rename it, or"),
        ("seg-{}.png", "masks/a_0.png is missing, but there is seg-a_0.png. Rename it, or"),
        ("{}.tif", "masks/a_0.png is missing, but there is a_0.tif. Convert it to grey PNG, or"),
        ("{}_of_somebody.png", "masks/a_0.png is missing. Add it, or"),
    ],
)
def test_masks_of_other_names_are_found_where_they_can_be_guessed(small, name, what):
    rename(small / "masks", "*.png", name)
    assert what in check_folder(small)[0]


# ---- writing -----------------------------------------------------------------------------------------------


def test_a_writer_refuses_leaks_and_wrong_arrays(tmp_path):
    image, target = pair(0)
    with pytest.raises(ValueError, match="is in train and in val"), SliceWriter(tmp_path / "f") as out:
        out.add(ImageRecord("s", "g", "train"), image, target)
        out.add(ImageRecord("t", "g", "val"), image, target)
    for wrong in ((image.astype(float), target), (image, target * 255), (image[1:], target)):
        with (
            pytest.raises(ValueError, match="s: expected an image of uint8"),
            SliceWriter(tmp_path / "f") as out,
        ):
            out.add(ImageRecord("s", "g", "train"), *wrong)
    assert list(tmp_path.iterdir()) == []


BAD_IDS = ["../evil", "a/b", "a\\b", "", "..", "a\0b", ".a", "S", "s", "x" * 201, "\udcff", "\ud800"]


@pytest.mark.parametrize("id_", BAD_IDS, ids=ascii)
def test_a_writer_refuses_every_id_that_a_reader_refuses_before_it_writes(tmp_path, id_):
    with pytest.raises(
        ValueError, match="plain file name|one file name on|longer than|appears twice|is not UTF-8 text"
    ):
        with SliceWriter(tmp_path / "deep/f") as out:
            out.add(ImageRecord("s", "g", "train"), *pair(0))
            before = sorted(tmp_path.rglob("*"))
            try:
                out.add(ImageRecord(id_, "g", "train"), *pair(1))
            finally:
                assert sorted(tmp_path.rglob("*")) == before
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep"]


def test_what_stands_there_is_never_overwritten(small, tmp_path):
    before = sorted(p.name for p in small.rglob("*"))
    with pytest.raises(ValueError, match="exists already. Remove it, or choose another"), SliceWriter(small):
        pass
    assert sorted(p.name for p in small.rglob("*")) == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="exists already"), SliceWriter(tmp_path / "file"):
        pass
    (tmp_path / "empty").mkdir()
    write_small(tmp_path / "empty")  # an empty folder is as good as none
    assert len(read_manifest(tmp_path / "empty")) == 8


# ---- the data set ------------------------------------------------------------------------------------------


def test_items_are_tensors_of_the_promised_kind(small):
    dataset = SliceDataset(small, "train")
    image, target, id_ = dataset[1]
    assert (image.shape, image.dtype, target.shape, target.dtype) == ((1, 24, 24), torch.float32) * 2
    expected_image, expected_target = pair(1)
    assert id_ == "a_1" and len(dataset) == 4
    assert np.allclose(image[0], expected_image / 255) and np.array_equal(target[0], expected_target)
    assert torch.equal(dataset[-1][0], dataset[3][0])
    with pytest.raises(IndexError):
        dataset[4]


def test_size_resizes_both(small):
    image, target, _ = SliceDataset(small, size=12)[0]
    assert image.shape == target.shape == (1, 12, 12) and set(target.unique().tolist()) <= {0.0, 1.0}


def test_an_unknown_split_names_those_there_are(small):
    with pytest.raises(ValueError, match="no slice in the split 'valid' .it has 4 train, 2 val, 2 test"):
        SliceDataset(small, "valid")


def jitter(image, target, rng):
    return image + rng.random(image.shape, dtype=np.float32), target[:, ::-1] if rng.random() < 0.5 else target


def epoch_of(loader, dataset, epoch):
    dataset.set_epoch(epoch)
    return torch.cat([torch.cat([image, target]) for image, target, _ in loader])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of torch, on one processor
@pytest.mark.parametrize("persistent", [False, True])
def test_a_sample_depends_only_on_seed_epoch_and_index(small, persistent):
    alone = SliceDataset(small, "train", augment=jitter, seed=5)
    shared = SliceDataset(small, "train", augment=jitter, seed=5)
    zero, two = DataLoader(alone), DataLoader(shared, num_workers=2, persistent_workers=persistent)
    epochs = [epoch_of(zero, alone, e) for e in (0, 1)]
    assert not torch.equal(*epochs)
    for e in (1, 0):
        assert torch.equal(epoch_of(two, shared, e), epochs[e])
    other = SliceDataset(small, "train", augment=jitter, seed=6)
    assert not torch.equal(epoch_of(DataLoader(other), other, 0), epochs[0])


def test_augmentation_does_not_change_what_is_kept_in_memory(small):
    def spoil(image, target, rng):
        image[:], target[:] = 0, 1
        return image, target

    dataset = SliceDataset(small, augment=spoil)
    dataset[0]
    dataset.augment = None
    assert np.array_equal(dataset[0][0][0] * 255, pair(0)[0]) and np.array_equal(dataset[0][1][0], pair(0)[1])


@pytest.mark.parametrize("limit", [0, 2**30])
def test_reading_twice_gives_the_same_with_and_without_memory(small, monkeypatch, limit):
    monkeypatch.setattr(folder_module, "CACHE_BYTES", limit)
    dataset = SliceDataset(small)
    first = dataset[2][0]
    shutil.rmtree(small / "images")
    if limit:
        assert torch.equal(dataset[2][0], first)
    else:
        with pytest.raises(ValueError, match="is missing"):
            dataset[2]


def test_a_data_set_can_be_pickled(small):
    dataset = SliceDataset(small, "val", size=16)
    dataset.set_epoch(3)
    twin = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(twin[0][0], dataset[0][0]) and twin._epoch == 3


def test_the_size_of_a_slice_is_read_without_its_pixels(tmp_path):
    with SliceWriter(tmp_path / "slices") as out:
        out.add(ImageRecord("a", "p", "train"), np.zeros((5, 9), np.uint8), np.zeros((5, 9), np.uint8))
    (record,) = read_manifest(tmp_path / "slices")
    assert slice_size(tmp_path / "slices", record) == (5, 9)


# ---- lesion classes ----------------------------------------------------------------------------------------


NAMES = ("LR2", "LR3", "LR4A")


def write_classes_folder(folder, names=NAMES):
    """Six slices, each with two of three classes; returns image and label map by id."""
    content = {}
    with SliceWriter(folder, classes=names) as out:
        for i, split in enumerate(["train", "train", "train", "train", "val", "test"]):
            image, target = pair(i)
            target[12:16, 4:9] = 1 + i % 3
            target[4, 6:9] = 1 + (i + 1) % 3
            content[f"s{i}"] = image, np.minimum(target, len(names))
            out.add(ImageRecord(f"s{i}", f"p{i}", split), *content[f"s{i}"])
    return content


def test_classes_survive_the_disk_and_become_channels(tmp_path):
    content = write_classes_folder(tmp_path / "f")
    assert check_folder(tmp_path / "f") == []
    assert (tmp_path / "f/classes.txt").read_text() == "LR2\nLR3\nLR4A\n"
    dataset = SliceDataset(tmp_path / "f")
    assert dataset.classes == NAMES
    for image, target, id_ in dataset:
        labels = content[id_][1]
        assert target.shape == (3, 24, 24) and target.dtype == torch.float32 and image.shape == (1, 24, 24)
        assert np.array_equal(target.numpy(), [labels == k for k in (1, 2, 3)])
        with Image.open(tmp_path / f"f/masks/{id_}.png") as mask:
            assert np.array_equal(np.asarray(mask), labels)  # class numbers, not 255


def test_resizing_and_augmenting_make_no_new_class(tmp_path):
    content = write_classes_folder(tmp_path / "f")

    def halves(image, labels, rng):
        assert labels.ndim == 2 and set(np.unique(labels)) <= {0, 1, 2, 3}
        return image, np.where(labels == 1, 0, labels)

    for _, target, id_ in SliceDataset(tmp_path / "f", size=12, augment=halves):
        want = resize_target(content[id_][1], (12, 12))
        assert np.array_equal(target.numpy(), [0 * want, want == 2, want == 3])


def test_one_named_class_is_binary(tmp_path):
    content = write_classes_folder(tmp_path / "f", names=("nodule",))
    assert check_folder(tmp_path / "f") == []
    dataset = SliceDataset(tmp_path / "f")
    assert dataset.classes == ("nodule",) and dataset[0][1].shape == (1, 24, 24)
    assert np.array_equal(dataset[0][1][0].numpy(), content["s0"][1])
    with Image.open(tmp_path / "f/masks/s0.png") as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 255}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "s0.png holds the values 0, 1, 2. A mask holds 0 and 255 .* Masks of lesion classes 1 to K need a cl"),
        ("LR2\nLR3\n", r"s1.png holds the values 0, 1, 2, 3, but classes.txt names only the values 1 to 2"),
        ("LR2\nLR3\nLR4A\nLR4B\n", r"f: no mask holds the value 4, which classes.txt calls 'LR4B'"),
        ("LR2\n\nLR4A\n", "classes.txt: line 2 is empty"),
        ("LR2\nLR2\nLR4A\n", "classes.txt: line 2 is 'LR2', and so is line 1"),
    ],
)
def test_a_folder_whose_masks_do_not_fit_its_classes_is_named(tmp_path, text, problem):
    write_classes_folder(tmp_path / "f")
    (tmp_path / "f/classes.txt").unlink() if text is None else (tmp_path / "f/classes.txt").write_text(text)
    problems = check_folder(tmp_path / "f")
    assert re.search(problem, problems[0]) and all("no mask holds" not in p for p in problems[1:])
    if "no mask" not in problem:
        with pytest.raises(ValueError, match=problem):
            list(SliceDataset(tmp_path / "f"))


def test_masks_of_255_do_not_fit_classes(small):
    (small / "classes.txt").write_text("LR2\nLR3\n")
    assert "a_0.png holds the values 0, 255, but classes.txt names only the values 1 to 2" in check_folder(small)[0]


def test_a_writer_refuses_labels_and_names_that_do_not_fit(tmp_path):
    image, target = pair(0)
    with (
        pytest.raises(ValueError, match=r"s: .* a target of its shape in \{0, 1, 2\}, got"),
        SliceWriter(tmp_path / "f", classes=("a", "b")) as out,
    ):
        out.add(ImageRecord("s", "p", "train"), image, 3 * target)
    with pytest.raises(ValueError, match="line 2 is 'a'"):
        SliceWriter(tmp_path / "f", classes=("a", "a"))
    assert not any(tmp_path.iterdir())
