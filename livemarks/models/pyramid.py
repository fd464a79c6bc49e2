"""Plain 3x3 convolutions and a feature pyramid: the CPU net (`lite-68`).

On one CPU thread dense 3x3 convolutions with few channels run several times closer to the arithmetic peak than
depthwise ones, so the net spends its time there. While training, each convolution is the sum of a 3x3, a 1x1 and, where
shapes allow, an identity branch, each with its own batch normalisation (RepVGG; Ding et al., 2021); `fuse` folds them
into one 3x3 convolution with the same output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from livemarks.models._net import LandmarkNet, PyramidHead, Raw, conv_bn
from livemarks.types import Scheme


class RepConv(nn.Module):
    """relu(conv3x3(x)), as three branches until fused."""

    def __init__(self, inputs: int, outputs: int, stride: int, fused: bool) -> None:
        super().__init__()
        self.conv: nn.Conv2d | None = None
        if fused:
            self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
            return
        self.wide, self.point = conv_bn(inputs, outputs, 3, stride), conv_bn(inputs, outputs, 1, stride)
        self.skip = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            return F.relu(self.conv(x))
        y = self.wide(x) + self.point(x)
        return F.relu(y if self.skip is None else y + self.skip(x))

    def fuse(self) -> None:
        """Replaces the branches by the one convolution that equals their sum (in eval mode)."""
        source: nn.Conv2d = self.wide[0]
        weight, bias = _fold(source.weight, self.wide[1])
        point_weight, point_bias = _fold(F.pad(self.point[0].weight, (1, 1, 1, 1)), self.point[1])
        weight, bias = weight + point_weight, bias + point_bias
        if self.skip is not None:
            unit = torch.eye(len(bias), device=bias.device)[:, :, None, None]
            skip_weight, skip_bias = _fold(F.pad(unit, (1, 1, 1, 1)), self.skip)
            weight, bias = weight + skip_weight, bias + skip_bias
        self.conv = nn.Conv2d(source.in_channels, source.out_channels, 3, source.stride, 1)
        self.conv.weight.data, self.conv.bias.data = weight.detach(), bias.detach()  # type: ignore[union-attr]
        del self.wide, self.point, self.skip


def _fold(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch normalisation after it folded in."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain


class Pyramid(LandmarkNet):
    """Stem at stride 2, then four stages at strides 4 to 32, then PyramidHead with maps at stride 4."""

    def __init__(
        self,
        scheme: Scheme,
        size_hw: tuple[int, int],
        *,
        stem: int = 16,
        widths: tuple[int, ...] = (32, 64, 96, 128),
        depths: tuple[int, ...] = (3, 4, 4, 3),
        head: int = 64,
        fused: bool = False,
    ) -> None:
        super().__init__(size_hw, grey=False)
        self.stem = RepConv(3, stem, 2, fused)
        self.stages = nn.ModuleList()
        inputs = stem
        for width, depth in zip(widths, depths, strict=True):
            blocks = [RepConv(inputs if i == 0 else width, width, 2 if i == 0 else 1, fused) for i in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = width
        self.head = PyramidHead(list(widths), head, len(scheme), self.size_hw)

    def raw(self, pixels: Tensor) -> Raw:
        x, levels = self.stem(pixels), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        out: Raw = self.head(levels)
        return out

    def fuse(self) -> None:
        """Folds every RepConv, for inference; build(..., fused=True) makes a net of the same shape."""
        for module in list(self.modules()):
            if isinstance(module, RepConv):
                module.fuse()


def build(scheme: Scheme, **options: object) -> LandmarkNet:
    """The net. Options: size_hw, stem, widths, depths, head, fused (see Pyramid)."""
    return Pyramid(scheme, **options)  # type: ignore[arg-type]
