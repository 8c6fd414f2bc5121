"""Images that are easily learned, a network that learns them, and that network with one thing broken in each."""

import torch
from torch import nn


def disc_batch(count=16, size=32, seed=0):
    """Bright discs on darker noise, all in [0, 1], and where they are: (count, 1, size, size) each."""
    g = torch.Generator().manual_seed(seed)
    row, col = torch.randint(6, size - 6, (2, count, 1, 1), generator=g)
    radius = torch.randint(3, 6, (count, 1, 1), generator=g)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    target = ((y - row) ** 2 + (x - col) ** 2 < radius**2).float()[:, None]
    image = 0.2 + 0.4 * target + 0.05 * torch.randn(target.shape, generator=g)
    return image.clamp(0, 1), target


class Sound(nn.Module):
    """Two convolutions and a head: what a pixel of a disc is can be seen in its neighbourhood."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.middle = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 1, 1)

    def features(self, image):
        return self.middle(self.stem(image))

    def forward(self, image):
        return self.head(self.features(image))


class Sigmoid(Sound):
    def forward(self, image):
        return super().forward(image).sigmoid()


class ReLU(Sound):
    def forward(self, image):
        return super().forward(image).relu()


class Detached(Sound):
    def forward(self, image):
        return self.head(self.features(image).detach())


class Hard(Sound):
    def forward(self, image):
        return (super().forward(image) > 0).float()


class Blind(Sound):
    """Multiplies the image by 0; learns one map for all images."""

    def __init__(self):
        super().__init__()
        self.map = nn.Parameter(torch.zeros(1, 1, 32, 32))

    def forward(self, image):
        return super().forward(0 * image) + self.map


class TooSmall(Sound):
    def forward(self, image):
        return super().forward(image)[..., 1:-1, 1:-1]


class Fails(Sound):
    def forward(self, image):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


class NotANumber(Sound):
    def forward(self, image):
        return super().forward(image) / 0 * 0


class SlowStatistics(Sound):
    """Its batch norm keeps the running statistics of its first moment."""

    def __init__(self):
        super().__init__()
        self.middle[0].momentum = 0.0


class Huge(Sound):
    def forward(self, image):
        return 1e5 * super().forward(image)
