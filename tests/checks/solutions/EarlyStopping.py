class EarlyStopping:
    def __init__(self, patience, mode, min_delta=0.0, min_epochs=0):
        self.patience, self.mode = patience, mode
        self.min_delta, self.min_epochs = min_delta, min_epochs
        self.best, self.best_epoch = None, None
        self.epoch, self.waited, self.stop = 0, 0, False

    def update(self, value):
        self.epoch += 1
        if value != value:  # NaN
            is_best = False
        elif self.best is None:
            is_best = True
        elif self.mode == "max":
            is_best = value > self.best + self.min_delta
        else:
            is_best = value < self.best - self.min_delta
        if is_best:
            self.best, self.best_epoch, self.waited = value, self.epoch, 0
        else:
            self.waited += 1
        self.stop = self.waited >= self.patience and self.epoch >= self.min_epochs
        return is_best
