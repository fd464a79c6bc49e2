"""FCN-ResNet50 heatmaps (CS194-26, bells and whistles; Long et al., 2015): one map a point at the crop's full size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from livemarks.models._net import LandmarkNet, Raw, conv_bn, soft_argmax
from livemarks.models._resnet import Bottleneck, Trunk
from livemarks.types import LivemarksError, Scheme

_TOP = 25  # the write-up's decode: the weighted mean of the 25 brightest pixels


def top_mean(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the 25 brightest pixels, weighted by brightness: xy (B, N, 2) px, and their spread (B, N) px.

    heat: (B, N, H, W), not negative, at the crop's full size.
    """
    width = heat.shape[3]
    value, index = heat.float().flatten(2).topk(_TOP, dim=2)  # (B, N, 25)
    weight = value / value.sum(dim=2, keepdim=True).clamp(min=1e-6)
    at = torch.stack([index % width, index.div(width, rounding_mode="floor")], dim=3).float()  # (B, N, 25, 2)
    xy = (weight[..., None] * at).sum(dim=2)
    variance = (weight * ((at - xy[:, :, None]) ** 2).mean(dim=3)).sum(dim=2)
    return xy, variance.clamp(min=1e-2).sqrt()


class FcnResNet50(LandmarkNet):
    """Dilated trunk at stride 8, the FCN head, bilinear to full size; pixels' logits, trained towards Gaussians.

    decode: "top25" as the write-up, on sigmoid brightness; "soft" takes the soft-argmax of a window around it.
    """

    def __init__(self, scheme: Scheme, size_hw: tuple[int, int], *, decode: str = "top25") -> None:
        super().__init__(size_hw, grey=True)
        if decode not in ("top25", "soft"):
            raise LivemarksError(f"fcn-resnet50 decodes by top25 or soft, not {decode!r}")
        self.decode = decode
        self.trunk = Trunk(Bottleneck, (3, 4, 6, 3), 1, dilated=True)
        middle = self.trunk.out_channels // 4
        last = nn.Conv2d(middle, len(scheme), 1)
        assert last.bias is not None
        nn.init.constant_(last.bias, -4.0)  # most pixels are not a landmark
        self.classifier = nn.Sequential(conv_bn(self.trunk.out_channels, middle), nn.ReLU(), nn.Dropout(0.1), last)

    def raw(self, pixels: Tensor) -> Raw:
        coarse = self.classifier(self.trunk(pixels)).float()  # (B, N, H/8, W/8)
        heat = F.interpolate(coarse, size=self.size_hw, mode="bilinear", align_corners=False)  # (B, N, H, W)
        xy, spread = top_mean(torch.sigmoid(heat))
        if self.decode == "soft":
            xy, spread = self._window_mean(heat, xy)
        presence = torch.sigmoid(heat.flatten(2).amax(dim=2)).mean(dim=1)  # how bright the peaks are, on average
        return Raw(xy, spread.log(), torch.logit(presence.clamp(1e-4, 1 - 1e-4)), heat)

    def _window_mean(self, heat: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
        """Soft-argmax of sigmoid(heat) within 1.5 target sigmas (7.5 px at 224) of `around`, where the peak stands."""
        height, width = heat.shape[2:]
        reach = 7.5 / 224 * max(self.size_hw)
        x = torch.arange(width, device=heat.device)
        y = torch.arange(height, device=heat.device)
        near_x = (x - around[:, :, None, 0]).abs() <= reach  # (B, N, W)
        near_y = (y - around[:, :, None, 1]).abs() <= reach
        window = near_y[:, :, :, None] & near_x[:, :, None, :]
        return soft_argmax(torch.where(window, F.logsigmoid(heat), -60.0), self.size_hw)


def build(scheme: Scheme, **options: object) -> LandmarkNet:
    """The net. Options: size_hw, decode ("top25" or "soft")."""
    return FcnResNet50(scheme, **options)  # type: ignore[arg-type]
