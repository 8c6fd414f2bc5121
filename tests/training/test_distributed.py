"""How images are shared out among processes: every image once, the same batches for any number of them."""

import itertools
from collections import OrderedDict
from functools import partial

import pytest
import torch
import torch.distributed as dist
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset

from lungseg.losses import bce_loss
from lungseg.training.distributed import (
    ALONE,
    Processes,
    TrainBatches,
    held_out_batches,
    start_processes,
    train_batches,
)
from lungseg.training.step import freeze, train_one_epoch

counts, sizes = st.integers(1, 60), st.integers(1, 20)


def epoch_of(num_images, batch_size, size, epoch=0, seed=0):
    """The batches of each process."""
    shares = []
    for rank in range(size):
        batches = TrainBatches(num_images, batch_size, seed=seed, processes=Processes(rank, size))
        batches.set_epoch(epoch)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches)
    return shares


@given(counts, sizes, st.integers(0, 3))
def test_an_epoch_holds_every_image_once_in_batches_of_nearly_equal_size(num_images, batch_size, epoch):
    (batches,) = epoch_of(num_images, batch_size, 1, epoch)
    assert sorted(itertools.chain(*batches)) == list(range(num_images))
    lengths = {len(b) for b in batches}
    assert max(lengths) <= batch_size and max(lengths) - min(lengths) <= 1
    assert len(batches) == (num_images + batch_size - 1) // batch_size


@given(counts, sizes, st.integers(2, 5), st.integers(0, 3))
def test_the_shares_of_a_batch_add_up_to_the_batch_of_one_process(num_images, batch_size, size, epoch):
    assume(num_images // -(-num_images // batch_size) >= size)
    (whole,) = epoch_of(num_images, batch_size, 1, epoch)
    shares = epoch_of(num_images, batch_size, size, epoch)
    for batch, *parts in zip(whole, *shares, strict=True):
        assert all(parts), "a process without an image would leave the others waiting"
        assert sorted(itertools.chain(*parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_order_depends_on_seed_and_epoch_alone():
    first = epoch_of(30, 7, 1, epoch=4, seed=1)
    assert epoch_of(30, 7, 1, epoch=4, seed=1) == first  # not on what was read before
    assert epoch_of(30, 7, 1, epoch=5, seed=1) != first
    assert epoch_of(30, 7, 1, epoch=4, seed=2) != first


def test_more_processes_than_images_in_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 training images in batches of 2 leave some of 2 processes"):
        TrainBatches(3, 2, seed=0, processes=Processes(0, 2))


class Numbers(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.tensor([index]), torch.zeros(1), str(index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_held_out_images_go_to_exactly_one_process(num_workers):
    for size in (1, 2, 3):
        shares = [
            held_out_batches(Numbers(), 4, num_workers=num_workers, processes=Processes(rank, size))
            for rank in range(size)
        ]
        ids = [id_ for share in shares for _, _, ids in share for id_ in ids]
        assert sorted(map(int, ids)) == list(range(11))


def test_reading_batches_leaves_the_global_generator_alone():
    """Else the drop-outs of an epoch would depend on how often somebody looked at the validation set."""
    before = torch.get_rng_state()
    for loader in (train_batches(Numbers(), 4, seed=0), held_out_batches(Numbers(), 4)):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_process_is_a_group_of_its_own(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with start_processes("cpu") as alone:
        assert alone == ALONE and alone.is_main
        assert alone.gather("x") == ["x"] and alone.share(3) == 1.0
        model = nn.Linear(1, 1)
        assert alone.wrap(model) is model
        with alone.main_first():
            pass


@pytest.fixture
def group_of_one():
    """A real group, whose gradients DDP averages with nobody's."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_frozen_parts_do_not_keep_the_other_processes_waiting(group_of_one):
    """Two steps frozen and two of learning; DDP notices at the second step that gradients of the first are missing."""
    steps = [(torch.randn(2, 1, 4, 4), torch.ones(2, 1, 4, 4), ["a", "b"])] * 2
    after = []
    for wrap in (lambda model: model, partial(Processes(0, 2).wrap, may_freeze=True)):
        torch.manual_seed(0)
        model = nn.Sequential(OrderedDict(encoder=nn.Conv2d(1, 2, 1), head=nn.Conv2d(2, 1, 1)))
        optimizer, parallel = torch.optim.SGD(model.parameters(), lr=0.1), wrap(model)
        for frozen in (True, False):
            parts = freeze(model, ["encoder"], frozen)
            train_one_epoch(parallel, steps, bce_loss, optimizer, frozen=parts, accumulate=2)
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(after[1], after[0])
    parallel = Processes(0, 2).wrap(model)
    with pytest.raises(RuntimeError, match="find_unused_parameters"):
        train_one_epoch(parallel, steps, bce_loss, optimizer, frozen=freeze(model, ["encoder"], True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for_in_vain():
    with pytest.raises(ValueError, match="finds no GPU"), start_processes("cuda"):
        pass


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "size", "place"),
    [
        (False, True, "auto", 1, "mps"),
        (False, True, "mps", 1, "mps"),
        (False, True, "cpu", 1, "cpu"),
        (False, False, "auto", 1, "cpu"),
        (False, True, "auto", 2, "cpu"),
        (False, False, "mps", 1, "finds no Apple GPU"),
        (False, True, "mps", 2, "takes one process"),
        (False, True, "cuda", 1, "finds no GPU"),
    ],
)
def test_where_to_compute(monkeypatch, cuda, mps, asked, size, place):
    """With what torch would say on an Apple computer; of several processes only the choice is looked at."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setenv("WORLD_SIZE", str(size))
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *args, **kwargs: None)
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda: None)
    try:
        with start_processes(asked) as processes:
            assert processes.device == torch.device(place) and processes.size == size
    except ValueError as error:
        assert place in str(error)
