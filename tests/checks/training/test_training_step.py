"""The checks of training accept ours, and code in another order that computes the same."""

import pytest
import torch

from lungseg.checks.lessons import Wrong
from lungseg.checks.training.training_step import check_train_one_epoch, check_train_step, check_validate
from lungseg.training.step import evaluate, train_one_epoch


def zeroes_afterwards(model, batches, loss_fn, optimizer):
    """Sound: the gradients are zero at the start of an epoch, and set to zero after each step."""
    model.train()
    losses = []
    for image, target in batches:
        loss = loss_fn(model(image), target)
        loss.backward()
        optimizer.step()
        model.zero_grad()
        losses += [loss.detach()] * len(image)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("sound", [train_one_epoch, zeroes_afterwards])
def test_the_check_of_an_epoch_accepts(sound):
    check_train_one_epoch(sound)


def step_by_closure(model, image, target, loss_fn, optimizer):
    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(image), target)
        loss.backward()
        return loss

    return optimizer.step(closure)


def test_the_check_of_a_step_accepts_a_closure():
    check_train_step(step_by_closure)


def test_the_check_of_a_validation_accepts_ours():
    check_validate(lambda model, batches, loss_fn: evaluate(model, batches, loss_fn).loss)


def test_a_result_that_is_no_number_is_refused():
    def all_losses(model, batches, loss_fn, optimizer):
        return [zeroes_afterwards(model, [batch], loss_fn, optimizer).item() for batch in batches]

    with pytest.raises(Wrong, match="expected one number"):
        check_train_one_epoch(all_losses)
