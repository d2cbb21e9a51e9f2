"""SqueezeTime in PyTorch, written from the description of the network, under the released names.

It stands beside ours in the parity tests and the benchmarks, and needs PyTorch.
"""

import torch
from torch import nn
from torch.nn import functional

from squeezetime_jax import SqueezeTimeConfig

LONG = 16


class Interaction(nn.Module):
    """Short-range features gated by long-range ones."""

    def __init__(self, channels: int, out: int, grid: int):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, LONG, grid, grid))
        self.short_conv = nn.Conv2d(channels, out, 3, padding=1)
        self.glo_conv = nn.Sequential(
            *(nn.Conv2d(channels, LONG, 3, padding=1), nn.BatchNorm2d(LONG), nn.ReLU()),
            *(nn.Conv2d(LONG, LONG, 7, padding=3), nn.BatchNorm2d(LONG), nn.ReLU()),
            *(nn.Conv2d(LONG, out, 3, padding=1), nn.Sigmoid()),
        )

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        narrow, far = self.glo_conv[:3], self.glo_conv[3:]
        long = narrow(x * weights)
        position = functional.interpolate(
            self.pos_embed, size=long.shape[2:], mode="bilinear", align_corners=True
        )
        return self.short_conv(x) * far(long + position)


class ChannelTime(nn.Module):
    """The channel-time learning module."""

    def __init__(self, channels: int, out: int, grid: int):
        super().__init__()
        self.param_conv = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            *(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 1, bias=False), nn.Sigmoid()),
        )
        self.temporal_conv = nn.Conv2d(channels, out, 1, bias=False)
        self.spatial_conv = Interaction(channels, out, grid)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.param_conv(x)
        return self.temporal_conv(x * weights) + self.spatial_conv(x, weights)


class Block(nn.Module):
    """A CTL block, basic or bottleneck."""

    def __init__(self, channels: int, planes: int, stride: int, grid: int, first: bool, deep: bool):
        super().__init__()
        self.deep = deep
        out = planes * 4 if deep else planes
        if deep:
            self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        else:
            self.conv1 = ChannelTime(channels, planes, 7)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = ChannelTime(planes, planes, grid)
        self.bn2 = nn.BatchNorm2d(planes)
        if deep:
            self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out)
        if first and channels != out:
            self.shortcut_conv = nn.Sequential(
                nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out)
            )
        if stride == 2:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, channels, 2, stride=2, groups=channels),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            y = self.bn3(self.conv3(functional.relu(y)))
        shortcut = self.shortcut_conv(x) if hasattr(self, "shortcut_conv") else x
        return functional.relu(y + shortcut)


class Net(nn.Module):
    """The backbone."""

    def __init__(self, config: SqueezeTimeConfig):
        super().__init__()
        channels = config.planes[0]
        self.conv1 = nn.Conv2d(3 * config.num_frames, channels, 5, 2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for i in range(4):
            blocks = []
            for j in range(config.blocks[i]):
                stride = config.strides[i] if j == 0 else 1
                grid, deep = config.position_grids[i], config.is_bottleneck
                blocks.append(Block(channels, config.planes[i], stride, grid, j == 0, deep))
                channels = config.planes[i] * config.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))

    def stem(self, clips: torch.Tensor) -> torch.Tensor:
        n, c, t, h, w = clips.shape
        x = functional.relu(self.bn1(self.conv1(clips.reshape(n, c * t, h, w))))
        return functional.max_pool2d(x, 3, 2, padding=1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        x = self.stem(clips)
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
        return x


class Twin(nn.Module):
    """The recogniser: clips `(N, 3, T, H, W)` -> logits, without dropout."""

    def __init__(self, config: SqueezeTimeConfig):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.net = Net(config)
        self.cls_head = nn.Module()
        self.cls_head.fc_cls = nn.Linear(config.feature_channels, config.num_classes)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.cls_head.fc_cls(self.backbone.net(clips).mean((2, 3)))


def randomise(twin: nn.Module, seed: int) -> None:
    """Gives every parameter and statistic a value that a mistake would not reproduce by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, entry in twin.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            noise = torch.randn(entry.shape, generator=generator)
            if name.endswith("running_var") or (entry.ndim == 1 and name.endswith("weight")):
                entry.copy_(torch.rand(entry.shape, generator=generator) + 0.5)
            elif entry.ndim == 1:
                entry.copy_(0.1 * noise)
            elif name.endswith("pos_embed"):
                entry.copy_(0.5 * noise)
            else:
                entry.copy_(noise / entry[0].numel() ** 0.5)
