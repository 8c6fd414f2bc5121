import torch


def bce_loss(logits, target):
    loss = logits.clamp(min=0) - logits * target + torch.log1p(torch.exp(-logits.abs()))
    return loss.mean()
