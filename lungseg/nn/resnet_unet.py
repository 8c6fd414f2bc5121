"""ResNet50-U-Net: a ResNet-50 as the encoder, and a plain convolutional decoder.

Encoder: "Deep Residual Learning for Image Recognition" (He et al. 2015, https://arxiv.org/abs/1512.03385), Table 1,
column "50-layer". Decoder: "U-Net" (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597), Figure 1, in the widely
used form of the library segmentation_models_pytorch: with equal weights the output equals that library's.

The encoder's layers carry torchvision's names, so that its ImageNet weights fit without renaming.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_batch_norm, check_counts, check_image, check_stages
from lungseg.nn.layers import double_conv
from lungseg.nn.memory_layout import fast_layout

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green, blue in [0, 1]


def imagenet_input(grey: Tensor, in_channels: int) -> Tensor:
    """Bring a grey image to the scale of the photographs that ImageNet weights were trained on.

    Args:
        grey: (B, 1, H, W) in [0, 1], copied into every channel; or (B, in_channels, H, W), a slice in each.
        in_channels: 3 uses the mean and standard deviation of each colour; any other number uses the average of the
            three, 0.449 and 0.226, which suits a first convolution whose input channels were summed.

    Returns:
        (B, in_channels, H, W); photographs would have a mean of about 0 and a standard deviation of about 1.
    """
    mean, std = grey.new_tensor(IMAGENET_MEAN), grey.new_tensor(IMAGENET_STD)  # (3,)
    if in_channels != 3:
        mean, std = mean.mean().expand(in_channels), std.mean().expand(in_channels)
    return (grey - mean[:, None, None]) / std[:, None, None]  # (B, in_channels, H, W): broadcast over the colours


class Bottleneck(nn.Module):
    """relu(x + f(x)), where f is three convolutions: 1 x 1 narrows, 3 x 3, 1 x 1 widens. He et al. 2015, Figure 5.

    The stride is in the 3 x 3 convolution ("v1.5", as in all published torch weights); the paper has it in the first
    1 x 1, which never looks at three of every four pixels.

    Args:
        in_channels: channels in.
        width: channels inside; 4 * width come out.
        stride: 2 halves the sides, rounded up.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None  # the identity, wherever x already has the shape of f(x)
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(  # the projection shortcut, He et al. 2015, section 3.3, option B
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * width, ceil(H/stride), ceil(W/stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, width, H, W)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # (B, width, H/stride, W/stride)
        x = self.bn3(self.conv3(x))  # (B, 4 * width, H/stride, W/stride)
        x += shortcut  # in place, which saves a map: the gradient of a batch norm needs its input, not its output
        return F.relu(x, inplace=True)


class ResNet50Encoder(nn.Module):
    """The five stages of ResNet-50 without the classifier. He et al. 2015, Table 1.

    23,508,032 parameters for 3 input channels. torchvision's ImageNet weights fit as they are
    (`lungseg.weights.load.load_published` also takes them for another number of channels).

    Args:
        in_channels: channels of the image.
        stem: channels of the first convolution.
        widths: inner channels of the bottlenecks of conv2_x to conv5_x; 4 times as many come out.
        depths: bottlenecks in each of these stages.

    Attributes:
        out_channels: channels of the five maps that forward returns.

    Raises:
        ValueError: unless there are four stages, or for counts below 1; in forward, for an image that is not
            (B, in_channels, H, W), whose dtype is not that of the weights, or whose deepest map has a single pixel in
            all while training.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        stem: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
    ):
        super().__init__()
        check_counts("ResNet50Encoder", in_channels=in_channels, stem=stem)
        check_stages("ResNet50Encoder", widths=widths, depths=depths)
        if len(widths) != 4 or len(depths) != 4:
            raise ValueError(
                f"ResNet50Encoder: widths={tuple(widths)} and depths={tuple(depths)} must name four stages each, "
                f"conv2_x to conv5_x of Table 1."
            )
        self.in_channels = in_channels
        self.out_channels = (stem, *(width * Bottleneck.expansion for width in widths))
        self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        def stage(i: int) -> nn.Sequential:
            stride = 1 if i == 0 else 2  # the max-pool before conv2_x has already halved the sides
            first = Bottleneck(self.out_channels[i], widths[i], stride)
            rest = [Bottleneck(self.out_channels[i + 1], widths[i]) for _ in range(depths[i] - 1)]
            return nn.Sequential(first, *rest)

        self.layer1, self.layer2, self.layer3, self.layer4 = (stage(i) for i in range(4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # keeps the variance of gradients from layer to layer (He et al. 2015b)
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> the maps of the five stages, at strides 2, 4, 8, 16 and 32, sides rounded up."""
        check_image("ResNet50Encoder", image, self.in_channels, self.conv1.weight.dtype)
        if self.training:
            check_batch_norm("ResNet50Encoder", image, stride=32)
        image = fast_layout(image)
        conv1 = F.relu(self.bn1(self.conv1(image)), inplace=True)  # (B,   64, H/2,  W/2)
        conv2 = self.layer1(self.maxpool(conv1))  # (B,  256, H/4,  W/4)   3 bottlenecks
        conv3 = self.layer2(conv2)  # (B,  512, H/8,  W/8)   4
        conv4 = self.layer3(conv3)  # (B, 1024, H/16, W/16)  6
        conv5 = self.layer4(conv4)  # (B, 2048, H/32, W/32)  3
        return [conv1, conv2, conv3, conv4, conv5]  # fmt: skip


class ResNet50UNet(nn.Module):
    """`ResNet50Encoder` with a U-Net decoder: five times upsample, concatenate the skip, convolve twice.

    The defaults are the published ones: 32,521,105 parameters for 3 -> 1 channels, 32,514,833 for 1 -> 1.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 for lesion against background.
        stem, widths, depths: of the encoder (`ResNet50Encoder`).
        decoder_channels: channels after each of the five decoder stages, at strides 16, 8, 4, 2 and 1.
        grey_input: the image is grey in [0, 1]: (B, 1, H, W), which is repeated for each of in_channels, or
            (B, in_channels, H, W) with a slice in each. It is normalised as the ImageNet weights expect
            (`imagenet_input`). Published: no, the caller does this.

    Raises:
        ValueError: unless there are four encoder and five decoder stages, or for counts below 1; in forward, for an
            image that is not (B, in_channels, H, W), whose dtype is not that of the weights, or whose deepest map has
            a single pixel in all while training.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        *,
        stem: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        grey_input: bool = False,
    ):
        super().__init__()
        check_counts("ResNet50UNet", in_channels=in_channels, num_classes=num_classes)
        check_stages("ResNet50UNet", decoder_channels=decoder_channels)
        if len(decoder_channels) != 5:
            raise ValueError(
                f"ResNet50UNet: decoder_channels={tuple(decoder_channels)} must name five stages, "
                f"one for each halving of the encoder, got {len(decoder_channels)}."
            )
        self.in_channels, self.grey_input = in_channels, grey_input
        self.encoder = ResNet50Encoder(in_channels, stem=stem, widths=widths, depths=depths)
        *skips, deepest = self.encoder.out_channels
        below = (deepest, *decoder_channels[:-1])
        beside = (*reversed(skips), 0)  # the last stage has no skip: no map of the encoder has stride 1
        self.decoder = nn.ModuleList(
            double_conv(b + s, out) for b, s, out in zip(below, beside, decoder_channels, strict=True)
        )
        self.head = nn.Conv2d(decoder_channels[-1], num_classes, kernel_size=3, padding=1)
        self.init_decoder()

    def init_decoder(self) -> None:
        """Draw the weights of decoder and head as the reference does."""
        for module in self.decoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.xavier_uniform_(self.head.weight)  # no ReLU follows
        assert self.head.bias is not None  # built with one
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W), any H and W of at least 1 pixel."""
        several = not self.grey_input or image.shape[1:2] == (self.in_channels,)
        check_image("ResNet50UNet", image, self.in_channels if several else 1, self.head.weight.dtype)
        if self.grey_input:
            image = imagenet_input(image, self.in_channels)  # (B, in_channels, H, W)
        *skips, x = self.encoder(image)  # x: (B, 2048, H/32, W/32)
        *stages, last = self.decoder
        for stage in stages:
            skip = skips.pop()
            x = F.interpolate(x, size=skip.shape[2:], mode="nearest")  # to the skip's size: odd sides need no padding
            x = stage(torch.cat([x, skip], dim=1))  # (B, 256, H/16, W/16) ... (B, 32, H/2, W/2)
        x = last(F.interpolate(x, size=image.shape[2:], mode="nearest"))  # (B, 16, H, W)
        return self.head(x)  # (B, num_classes, H, W)
