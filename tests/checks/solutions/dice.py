def dice(pred, target):
    overlap = (pred * target).sum()
    return 2 * overlap / (pred.sum() + target.sum())
