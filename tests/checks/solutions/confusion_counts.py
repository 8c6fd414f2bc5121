import torch


def confusion_counts(logits, target, threshold=0.5):
    pred = logits.sigmoid().flatten(1) > threshold
    lesion = target.flatten(1) > 0
    tp = (pred & lesion).sum(1)
    fp = (pred & ~lesion).sum(1)
    fn = (~pred & lesion).sum(1)
    tn = (~pred & ~lesion).sum(1)
    return torch.stack([tp, fp, fn, tn], 1)
