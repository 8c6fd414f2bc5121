def dice_loss(logits, target, smooth=1.0):
    probs = logits.sigmoid().flatten(2)
    target = target.flatten(2)
    overlap = (probs * target).sum(2)
    sizes = probs.sum(2) + target.sum(2)
    dice = (2 * overlap + smooth) / (sizes + smooth)
    return 1 - dice.mean()
