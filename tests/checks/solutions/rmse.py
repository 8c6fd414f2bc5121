def rmse(pred, target):
    return ((pred.float() - target.float()) ** 2).mean().sqrt()
