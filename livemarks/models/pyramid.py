"""Plain 3x3 convolutions and a feature pyramid: the CPU net (`lite-68`).

On one CPU thread dense 3x3 convolutions with few channels run several times closer to the arithmetic peak than
depthwise ones, so the net spends its time there. Where shapes allow, a convolution's input is added to its output
before the ReLU: an inference engine does convolution, addition and ReLU in one pass.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from livemarks.models._net import LandmarkNet, PyramidHead, Raw, conv_bn, exact
from livemarks.types import Scheme


class Step(nn.Module):
    """relu(x + conv3x3(x)), without the addition where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = conv_bn(inputs, outputs, 3, stride)
        self.adds = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x) if self.adds else self.conv(x))


class Pyramid(LandmarkNet):
    """Stem at stride 2, then four stages at strides 4 to 32, then PyramidHead with maps at stride 4.

    Pixels enter as they are: the stem's batch normalisation finds their mean and scale, and its padding is the black
    beside a picture.
    """

    def __init__(
        self,
        scheme: Scheme,
        size_hw: tuple[int, int],
        *,
        stem: int = 16,
        widths: tuple[int, ...] = (32, 64, 96, 128),
        depths: tuple[int, ...] = (3, 4, 5, 5),
        head: int = 64,
    ) -> None:
        super().__init__(size_hw, grey=False, shift=0.0, scale=1.0)
        self.stem = Step(3, stem, 2)
        self.stages = nn.ModuleList()
        inputs = stem
        for width, depth in zip(widths, depths, strict=True):
            self.stages.append(
                nn.Sequential(Step(inputs, width, 2), *(Step(width, width, 1) for _ in range(depth - 1)))
            )
            inputs = width
        self.head = PyramidHead(list(widths), head, len(scheme), self.size_hw)

    def raw(self, pixels: Tensor) -> Raw:
        with exact(pixels.device):  # half of bfloat16's digits would go into the mean
            x = self.stem(pixels)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        out: Raw = self.head(levels)
        return out


def build(scheme: Scheme, **options: object) -> LandmarkNet:
    """The net. Options: size_hw, stem, widths, depths, head (see Pyramid)."""
    return Pyramid(scheme, **options)  # type: ignore[arg-type]
