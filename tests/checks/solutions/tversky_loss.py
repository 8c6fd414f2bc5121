def tversky_loss(logits, target, alpha, beta, smooth=1.0):
    probs = logits.sigmoid().flatten(2)
    target = target.flatten(2)
    tp = (probs * target).sum(2)
    fp = (probs * (1 - target)).sum(2)
    fn = ((1 - probs) * target).sum(2)
    index = (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)
    return (1 - index).mean()
