"""What every landmark net shares: pixels in, the contract out, and the decoders that turn maps into points."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ITU-R BT.601 luma weights, in BGR order: the grey that cv2.cvtColor gives.
_LUMA_BGR = (0.114, 0.587, 0.299)


class Raw(NamedTuple):
    """What a net computes before it is decoded; training looks at this.

    xy (B, N, 2) crop px; log_sigma (B, N), log of crop px; presence (B,) logits;
    heat (B, N, h, w) logits of the heatmaps, or None for nets that regress points.
    """

    xy: Tensor
    log_sigma: Tensor
    presence: Tensor
    heat: Tensor | None = None


class LandmarkNet(nn.Module):
    """Base of all nets: `forward` fulfils the contract of types.Runner, normalisation and decoding inside.

    Subclasses set up their layers and write `raw(pixels)`, from (B, C, H, W) floats. grey: one channel instead of
    three. shift, scale: pixels enter as (value - shift) / scale. mirror: the order of a mirrored face's points
    (Scheme.mirror), for a net that answers with the mean over the crop and its mirror image, at twice the work; while
    training it sees either.
    """

    sigma_scale: Tensor
    offset: Tensor

    def __init__(
        self,
        size_hw: tuple[int, int],
        *,
        grey: bool,
        shift: float = 127.5,
        scale: float = 64.0,
        mirror: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.size_hw = (int(size_hw[0]), int(size_hw[1]))
        self.grey, self.shift, self.scale, self.mirror = grey, shift, scale, list(mirror)
        # Both set once after training, from held-out faces (train/validate.py): so that sigma means what it says, and
        # what is added to all points, crop px, where training can't teach it.
        self.register_buffer("sigma_scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(2))

    def resize(self, size_hw: tuple[int, int]) -> None:
        """From now on it takes crops of this size, (height, width); nets with dense layers over the map can't."""
        for module in self.modules():
            if isinstance(module, (LandmarkNet, PyramidHead)):
                module.size_hw = size_hw

    def pixels(self, crops: Tensor) -> Tensor:
        """(B, H, W, 3) BGR, uint8 or float 0..255 -> (B, C, H, W) as the net wants them."""
        x = crops.permute(0, 3, 1, 2).float()  # in this order: bytes are turned over in a quarter of the time
        if self.grey:
            luma = torch.tensor(_LUMA_BGR, device=x.device).view(3, 1, 1)
            x = (x * luma).sum(dim=1, keepdim=True)
        if (self.shift, self.scale) != (0, 1):
            x = (x - self.shift) / self.scale
        return x.contiguous()  # left channels-last, torch 2.13's CPU backward has crashed

    def raw(self, pixels: Tensor) -> Raw:
        """(B, C, H, W) -> Raw."""
        raise NotImplementedError

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, 3) uint8 BGR -> xy (B, N, 2) and sigma (B, N) in crop px, presence (B,) in 0..1."""
        pixels = self.pixels(crops)
        out = self._raw_of_both(pixels) if self.mirror else self.raw(pixels)
        sigma = out.log_sigma.float().exp() * self.sigma_scale
        return out.xy.float() + self.offset, sigma, torch.sigmoid(out.presence.float())

    def _raw_of_both(self, pixels: Tensor) -> Raw:
        """The mean of what is said of the crops and of their mirror images."""
        out, n = self.raw(torch.cat([pixels, pixels.flip(3)])), pixels.shape[0]
        xy, log_sigma, presence = out.xy.float(), out.log_sigma.float(), out.presence.float()
        edge = torch.tensor([self.size_hw[1] - 1.0, 0.0], device=xy.device)
        other = edge - xy[n:, self.mirror] * torch.tensor([1.0, -1.0], device=xy.device)
        return Raw(
            (xy[:n] + other) / 2, (log_sigma[:n] + log_sigma[n:, self.mirror]) / 2, (presence[:n] + presence[n:]) / 2
        )

    def from_unit(self, unit: Tensor) -> Tensor:
        """(B, N, 2) in [-1, 1] over the crop's pixel centres -> crop px."""
        height, width = self.size_hw
        half = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=unit.device)
        return (unit + 1) * half


def exact(device: torch.device) -> AbstractContextManager[object]:
    """Keeps autocast from rounding what is computed inside. Meta tensors don't know autocast."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation; "same" padding."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def soft_argmax(heat: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean and spread of each heatmap's softmax: xy (B, N, 2), spread (B, N) (one standard deviation), in crop px.

    A cell of an (h, w) map over an (H, W) crop covers H/h x W/w pixels, and stands for their centre.
    """
    height, width = heat.shape[2:]
    stride, tall = size_hw[1] / width, size_hw[0] / height
    x = torch.arange(width, device=heat.device, dtype=torch.float32) - (width - 1) / 2
    y = (torch.arange(height, device=heat.device, dtype=torch.float32) - (height - 1) / 2) * (tall / stride)
    # (h w, 2): x, y from the middle, both in cells' widths: small numbers, for float16
    cells = torch.cartesian_prod(y, x).flip(1)
    moments = torch.cat([cells, (cells * cells).sum(dim=1, keepdim=True)], dim=1)  # (h w, 3)
    # One product for all three: ONNX Runtime takes 35 us less than for sums along rows and columns. In bfloat16 it
    # would be half a pixel off.
    with exact(heat.device):
        found = torch.softmax(heat.float().flatten(2), dim=2) @ moments  # (B, N, 3)
    mean = found[:, :, :2]
    variance = (found[:, :, 2] - (mean * mean).sum(dim=2)) * (stride * stride / 2)
    middle = torch.tensor([(size_hw[1] - 1) / 2, (size_hw[0] - 1) / 2], device=heat.device)
    return mean * stride + middle, variance.clamp(min=1e-2).sqrt()


class PyramidHead(nn.Module):
    """Feature pyramid (Lin et al., 2017) from coarse to fine, then one heatmap a point at the finest level.

    Besides, from the coarsest level's mean: presence, and how much wider or narrower than the heatmap's spread each
    point's sigma is. shape: move each point in the end, by what all of them and that mean say of it: linear, as in
    cascades of regressions (Xiong & De la Torre, 2013), which hold a face's points together better than maps alone do.
    """

    def __init__(
        self, channels: list[int], width: int, points: int, size_hw: tuple[int, int], *, shape: bool = False
    ) -> None:
        super().__init__()
        self.size_hw = size_hw
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(self._mix(width) for _ in channels)
        self.heat = nn.Conv2d(width, points, 1)
        self.presence = nn.Linear(channels[-1], 1)
        self.sigma = nn.Linear(channels[-1], points)
        nn.init.zeros_(self.sigma.weight)
        nn.init.constant_(self.sigma.bias, -1.0)  # heatmaps start out wider than errors
        self.shape = nn.Linear(2 * points + channels[-1], 2 * points) if shape else None
        if self.shape is not None:
            nn.init.zeros_(self.shape.weight)
            nn.init.zeros_(self.shape.bias)

    @staticmethod
    def _mix(width: int) -> nn.Sequential:
        return nn.Sequential(conv_bn(width, width, 3, groups=width), conv_bn(width, width, 1), nn.ReLU())

    def forward(self, levels: list[Tensor]) -> Raw:
        """levels: (B, C_i, h_i, w_i), fine to coarse, each half the size of the one before, rounded up."""
        top: Tensor | None = None
        for level, lateral, smooth in reversed(list(zip(levels, self.lateral, self.smooth, strict=True))):
            here = lateral(level)
            if top is not None:
                height, width = level.shape[2:]
                here = here + F.interpolate(top, scale_factor=2.0, mode="nearest")[:, :, :height, :width]
            top = smooth(here)
        assert top is not None
        heat = self.heat(top)  # (B, N, h, w)
        pooled = levels[-1].mean(dim=(2, 3)).float()
        xy, spread = soft_argmax(heat, self.size_hw)
        if self.shape is not None:
            half = self.size_hw[1] / 2
            centred = (xy - xy.mean(dim=1, keepdim=True)) / half
            with exact(xy.device):
                xy = xy + half * self.shape(torch.cat([centred.flatten(1), pooled], dim=1)).unflatten(1, (-1, 2))
        log_sigma = spread.detach().log() + self.sigma(pooled)
        return Raw(xy, log_sigma, self.presence(pooled)[:, 0], heat)


def constant_sigma(xy: Tensor) -> Raw:
    """Raw of a historical net, which knows only points: sigma 1 px (times the calibrated scale), a face for certain.

    The presence logit of 4 (0.98) never ends a track; the tracker's detector checks must.
    """
    ones = torch.ones_like(xy[:, :, 0])
    return Raw(xy, ones.log(), 4.0 * ones[:, 0])
