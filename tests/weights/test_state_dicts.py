"""What stands in a file of weights, and what is refused of it."""

import argparse
import json
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.checkpoint import save_checkpoint
from lungseg.weights.state_dicts import SAFETENSORS, candidates, contents, nested, prefixes, read_file

ONE = torch.ones(1)
PARTS = st.sampled_from(["module", "encoder", "layer1", "weight"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map(".".join), min_size=1, max_size=6))
def test_a_prefix_is_a_run_of_known_words_at_the_start_of_a_name_and_never_all_of_it(names):
    known = {"module", "encoder"}
    found = prefixes(dict.fromkeys(names, ONE))
    expected = {""}
    for name in names:
        for end in range(1, name.count(".") + 1):
            parts = name.split(".")[:end]
            if set(parts) <= known:
                expected.add(".".join(parts) + ".")
    assert len(found) == len(set(found)) and set(found) == expected and found[0] == ""


def test_each_table_is_found_wherever_it_is():
    content = {"a.weight": ONE, "ema": {"model": OrderedDict(w=ONE), "step": 3}}
    content |= {"optimizer": {0: {"exp_avg": ONE}, 1: 2}}
    assert [where for where, _ in nested(content)] == ["", "ema.model", "optimizer.0"]
    assert [table.where for table in candidates(content)] == ["ema.model", "", "optimizer.0"]  # averages first


def test_a_mapping_that_holds_itself_comes_to_an_end():
    content = {"w": ONE}
    content["again"] = content
    assert len(list(nested(content))) == 5


def test_what_torch_inserts_is_taken_out_anywhere():
    (table,) = candidates({"layer1._orig_mod.0._checkpoint_wrapped_module.weight": ONE, "my_orig_mod.bias": ONE})
    assert list(table.tensors) == ["layer1.0.weight", "my_orig_mod.bias"]


def test_a_table_under_a_prefix_knows_what_is_outside():
    content = {"module.a": ONE, "module.b": ONE, "c": ONE}
    whole, inside = candidates(content)
    assert list(whole.tensors) == list(content) and not whole.outside
    assert list(inside.tensors) == ["a", "b"] and inside.outside == ("c",) and inside.where == "under module."


def test_contents_names_the_largest_tables_and_counts():
    many = {f"part{i}.x.{j}": ONE for i in range(9) for j in range(2)}
    text = contents({"small": {"w": ONE}, "big": many})
    assert text.startswith("big: part0.x (2), ") and text.endswith(", ...; small: w (1)")


def test_both_formats_of_torch_and_our_own_are_read(tmp_path):
    for archive in (True, False):
        torch.save({"a": ONE}, tmp_path / "x.pth", _use_new_zipfile_serialization=archive)
        assert torch.equal(read_file(tmp_path / "x.pth")["a"], ONE)
    save_checkpoint(tmp_path / "ours.pt", {"model": {"a": ONE}})
    assert torch.equal(read_file(str(tmp_path / "ours.pt"))["model"]["a"], ONE)


def test_the_arguments_saved_in_a_checkpoint_do_no_harm(tmp_path):
    torch.save({"args": argparse.Namespace(lr=1e-3), "model": {"a": ONE}}, tmp_path / "x.pth")
    assert torch.equal(read_file(tmp_path / "x.pth")["model"]["a"], ONE)


def safetensors(header, body=b""):
    """Bytes of the format; the header may be anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(SAFETENSORS.items())), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 9)
        ),
        max_size=4,
    )
)
def test_safetensors_give_back_every_tensor(tmp_path_factory, tensors):
    header, body, expected = {"__metadata__": {"format": "pt"}, "w": None}, b"", {}
    for i, ((name, dtype), shape, value) in enumerate([(("F32", torch.float32), [2], 1), *tensors]):
        tensor = torch.full(shape, value).to(dtype)
        raw = tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[f"w{i}"] = {"dtype": name, "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
        expected[f"w{i}"] = tensor
    del header["w"]
    path = tmp_path_factory.getbasetemp() / "x.safetensors"
    path.write_bytes(safetensors(header, body))
    found = read_file(path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"1234567", (2**63).to_bytes(8, "little"), safetensors(b"{"), safetensors(b"\xff"), safetensors([1]),
        safetensors({"w": 3}), safetensors({"w": {}}), safetensors({"w": ENTRY | {"dtype": "X"}}, b"1234"),
        safetensors({"w": ENTRY}), safetensors({"w": ENTRY}, b"123"),
        safetensors({"w": ENTRY | {"data_offsets": [-4, 0]}}, b"1234"),
        safetensors({"w": ENTRY | {"shape": [2**62, 4]}}, b"1234"),
        safetensors({"w": ENTRY | {"shape": [-1]}}, b"1234"),
        safetensors({"w": ENTRY | {"shape": ["1"]}}, b"1234"), safetensors({"w": ENTRY | {"shape": 1}}, b"1234"),
        safetensors({"w": ENTRY | {"dtype": []}}, b"1234"), safetensors(b"[" * 100_000),
    ],
)  # fmt: skip
def test_broken_safetensors_are_refused_in_one_sentence(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.safetensors: is damaged") as error:
        read_file(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_what_is_no_file_of_weights_is_refused_in_one_sentence_and_nothing_in_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": ONE}, "extra": Bomb()}, "bomb.pth")
    Path("page.html").write_text("<html>404</html>")
    Path("empty.pth").write_bytes(b"")
    Path("folder").mkdir()
    cases = [("bomb.pth", r"of tensors only.*also holds getattr"), ("page.html", "not a checkpoint of tensors only")]
    cases += [("empty.pth", "not a checkpoint"), ("missing.pth", "No such file"), ("folder", "folder/best.pt")]
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe")
        cases.append(("pipe", "not a regular file"))
    for name, words in cases:
        with pytest.raises(ValueError, match=words) as error:
            read_file(name)
        assert name in str(error.value) and "\n" not in str(error.value)
    assert not Path("exploded").exists()
