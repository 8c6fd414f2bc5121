def recall(pred, target):
    found = (pred * target).sum()
    return found / target.sum()
