"""Convolutions, pooling, dense layers: the nets of the KTH paper (`kth15`) and of CS194-26's first two parts."""

from __future__ import annotations

from torch import Tensor, nn

from livemarks.models._net import LandmarkNet, Raw, constant_sigma, exact
from livemarks.types import Scheme


class ConvNet(LandmarkNet):
    """[conv, ReLU, 2x2 max-pool, dropout] x K, [dense, ReLU, dropout] x M, dense to 2 N numbers in [-1, 1].

    channels, kernels: of each convolution, without padding, as Kaggle's tutorials have them. pools: whether a max-pool
    follows it. dense: widths of the hidden layers. dropout: True puts 10, 20, 30 % after the first three pools and 50 %
    after the first hidden layer, the tutorial's rates. Pixels enter as value / 255 - 0.5 (`centred`, the exercise's
    range) or value / 255 (Kaggle's tutorials'). he: start the hidden layers as He et al. (2015) and the last one at
    zero, PyTorch's way otherwise; SGD's large first steps would leave no unit alive there. twice: answer with the mean
    over the crop and its mirror image.
    """

    def __init__(
        self,
        scheme: Scheme,
        size_hw: tuple[int, int],
        *,
        channels: tuple[int, ...] = (32, 64, 128),
        kernels: tuple[int, ...] = (3, 2, 2),
        pools: tuple[bool, ...] = (True, True, True),
        dense: tuple[int, ...] = (500, 500),
        dropout: bool = False,
        centred: bool = False,
        he: bool = False,
        twice: bool = False,
    ) -> None:
        mirror = scheme.mirror if twice else ()
        super().__init__(size_hw, grey=True, shift=127.5 if centred else 0.0, scale=255.0, mirror=mirror)
        height, width = self.size_hw
        layers: list[nn.Module] = []
        inputs = 1
        for i, (outputs, kernel, pool) in enumerate(zip(channels, kernels, pools, strict=True)):
            layers.append(nn.Conv2d(inputs, outputs, kernel))
            height, width, inputs = height - kernel + 1, width - kernel + 1, outputs
            if pool:  # before the ReLU: the same numbers for a quarter of the work
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout((0.1, 0.2, 0.3)[min(i, 2)]))
        self.features = nn.Sequential(*layers)
        layers, inputs = [], inputs * height * width
        for i, outputs in enumerate(dense):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            if dropout and i == 0:
                layers.append(nn.Dropout(0.5))
            inputs = outputs
        last = nn.Linear(inputs, 2 * len(scheme))
        self.classifier = nn.Sequential(*layers, last)
        if he:
            for name, parameter in self.named_parameters():
                if name.endswith("weight"):
                    nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
                else:
                    nn.init.zeros_(parameter)
            nn.init.zeros_(last.weight)

    def raw(self, pixels: Tensor) -> Raw:
        hidden = self.classifier[:-1](self.features(pixels).flatten(1)).float()
        with exact(hidden.device):  # in bfloat16, points near the crop's edge are up to a fifth of a pixel off
            unit = self.classifier[-1](hidden).float().unflatten(1, (-1, 2))
        return constant_sigma(self.from_unit(unit))


def build(scheme: Scheme, **options: object) -> LandmarkNet:
    """The net. Options: size_hw, channels, kernels, pools, dense, dropout, centred, he, twice (see ConvNet)."""
    return ConvNet(scheme, **options)  # type: ignore[arg-type]
