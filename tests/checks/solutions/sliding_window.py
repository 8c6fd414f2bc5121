import torch


def starts(side, window, step):
    found = list(range(0, side - window, step))
    return found + [max(side - window, 0)]


def sliding_window(model, image, window_size, overlap=0.5):
    B, C, H, W = image.shape
    h, w = min(window_size, H), min(window_size, W)
    step = max(1, int(window_size * (1 - overlap)))
    total, count = 0, torch.zeros(1, 1, H, W)
    for top in starts(H, h, step):
        for left in starts(W, w, step):
            window = image[:, :, top : top + h, left : left + w]
            logits = model(window)
            placed = torch.zeros(B, logits.shape[1], H, W)
            placed[:, :, top : top + h, left : left + w] = logits
            total = total + placed
            count[:, :, top : top + h, left : left + w] += 1
    return total / count
