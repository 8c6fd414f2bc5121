def precision(pred, target):
    found = (pred * target).sum()
    return found / pred.sum()
