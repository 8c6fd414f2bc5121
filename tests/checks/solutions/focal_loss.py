import torch.nn.functional as F


def focal_loss(logits, target, gamma, alpha=None):
    z = logits * (2 * target - 1)  # the logit of the right answer
    loss = -F.logsigmoid(z) * (gamma * F.logsigmoid(-z)).exp()
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss.mean()
