def iou(pred, target):
    pred, target = pred > 0, target > 0
    return (pred & target).sum() / (pred | target).sum()
