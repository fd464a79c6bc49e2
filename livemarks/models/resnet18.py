"""ResNet18 on one grey channel that regresses all points at once (CS194-26, part 3)."""

from __future__ import annotations

from torch import Tensor, nn

from livemarks.models._net import LandmarkNet, Raw, constant_sigma, exact
from livemarks.models._resnet import Basic, Trunk
from livemarks.types import Scheme


class ResNet18(LandmarkNet):
    """Trunk, mean over the map, one linear layer to 2 N numbers in [-1, 1] over the crop.

    twice: answer with the mean over the crop and its mirror image.
    """

    def __init__(self, scheme: Scheme, size_hw: tuple[int, int], *, twice: bool = False) -> None:
        super().__init__(size_hw, grey=True, mirror=scheme.mirror if twice else ())
        self.trunk = Trunk(Basic, (2, 2, 2, 2), 1, dilated=False)
        self.fc = nn.Linear(self.trunk.out_channels, 2 * len(scheme))
        nn.init.normal_(self.fc.weight, std=1e-3)
        nn.init.zeros_(self.fc.bias)

    def raw(self, pixels: Tensor) -> Raw:
        pooled = self.trunk(pixels).mean(dim=(2, 3)).float()
        with exact(pooled.device):  # in bfloat16, points near the crop's edge are up to a quarter of a pixel off
            unit = self.fc(pooled).float().unflatten(1, (-1, 2))
        return constant_sigma(self.from_unit(unit))


def build(scheme: Scheme, **options: object) -> LandmarkNet:
    """The net. Options: size_hw, twice (see ResNet18)."""
    return ResNet18(scheme, **options)  # type: ignore[arg-type]
