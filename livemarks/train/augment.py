"""Random crops of labelled faces, cut and spoilt in whole batches on the training device.

Geometry is `geometry.crop_affine` written for tensors (a test holds the two together): training crops are the crops
that a tracker cuts, with the box shifted, scaled and turned by as much as its boxes are off. Then come the ways in
which real pictures are bad: colour, darkness, blur, motion, low resolution, JPEG, noise, something before the face.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from livemarks.geometry import box_from_points
from livemarks.types import Scheme


@dataclass(frozen=True, slots=True)
class Augment:
    """How much of everything. Angles in degrees, shift in fractions of the box's longer side, the rest chances.

    rotate, shift, scale: one standard deviation (scale of its logarithm), cut off at 2.5. upright: chance that the
    box is taken along the picture's axes instead of along the face's eyes. negatives: share of each batch that shows
    no face, or not one that a net should accept.
    """

    rotate: float = 12.0
    shift: float = 0.03
    scale: float = 0.08
    upright: float = 0.3
    flip: float = 0.5
    colour: float = 0.8
    grey: float = 0.15
    dark: float = 0.15
    blur: float = 0.2
    motion: float = 0.1
    shrink: float = 0.2
    jpeg: float = 0.3
    noise: float = 0.3
    occlude: float = 0.35
    negatives: float = 0.1

    def milder(self, factor: float) -> Augment:
        """The same moves, but every chance of spoiling the picture (from `colour` to `occlude`) times `factor`."""
        ways = ("colour", "grey", "dark", "blur", "motion", "shrink", "jpeg", "noise", "occlude")
        return replace(self, **{way: factor * getattr(self, way) for way in ways})


def boxes_of(xy: np.ndarray, scheme: Scheme) -> Tensor:
    """(n, N, 2) points -> (n, 2, 4): center x, y, longer side, roll of each face's box, turned and upright.

    Where a label is missing (NaN), the other points span the box, and both are upright.
    """
    rows = []
    for points in xy:
        known = points[~np.isnan(points).any(axis=1)]
        pair = [box_from_points(known, scheme, upright=u) for u in (len(known) < len(points), True)]
        rows.append([[*b.center_xy.tolist(), float(b.size_wh.max()), b.roll_rad] for b in pair])
    return torch.tensor(rows, dtype=torch.float32)


def crop_affines(boxes: Tensor, size_hw: tuple[int, int], margin: float) -> Tensor:
    """(B, 4) center x, y, side, roll -> (B, 2, 3), crop px -> canvas px; `geometry.crop_affine` for a batch."""
    height, width = size_hw
    scale = margin * boxes[:, 2] / height
    cos, sin = scale * torch.cos(boxes[:, 3]), scale * torch.sin(boxes[:, 3])
    u, v = (width - 1) / 2, (height - 1) / 2
    tx, ty = boxes[:, 0] - cos * u + sin * v, boxes[:, 1] - sin * u - cos * v
    return torch.stack([cos, -sin, tx, sin, cos, ty], dim=1).view(-1, 2, 3)


def sample(canvases: Tensor, affines: Tensor, size_hw: tuple[int, int], padding: str = "zeros") -> Tensor:
    """(B, 3, C, C) canvases, (B, 2, 3) crop px -> canvas px: crops (B, 3, h, w), bilinear."""
    height, width = size_hw
    side = canvases.shape[3]
    device = canvases.device
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    at = torch.stack([x, y, torch.ones_like(x)], dim=2).float().view(-1, 3)  # (h w, 3)
    where = torch.einsum("bij,pj->bpi", affines, at).view(-1, height, width, 2)
    grid = (2 * where + 1) / side - 1  # pixel centres: -0.5 is -1
    return F.grid_sample(canvases, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def into_crop(affines: Tensor, xy: Tensor) -> Tensor:
    """(B, 2, 3) crop px -> canvas px and (B, N, 2) canvas px: the points in crop px."""
    own: Tensor = torch.linalg.solve(affines[:, :, :2], (xy - affines[:, None, :, 2]).transpose(1, 2))
    return own.transpose(1, 2)


def jittered(boxes: Tensor, spread: Augment) -> Tensor:
    """(B, 2, 4) turned and upright boxes -> (B, 4): one of the two, moved, scaled and turned at random."""
    batch, device = len(boxes), boxes.device
    upright = torch.rand(batch, device=device) < spread.upright
    box = torch.where(upright[:, None], boxes[:, 1], boxes[:, 0])
    dice = torch.randn(batch, 4, device=device).clamp(-2.5, 2.5)
    side = box[:, 2] * torch.exp(spread.scale * dice[:, 2])
    center = box[:, :2] + spread.shift * dice[:, :2] * box[:, 2:3]
    roll = box[:, 3] + math.radians(spread.rotate) * dice[:, 3]
    return torch.cat([center, side[:, None], roll[:, None]], dim=1)


def off_face(boxes: Tensor) -> Tensor:
    """(B, 4) boxes -> boxes that no net should accept: beside the face, or so small that they see a patch of it."""
    batch, device = len(boxes), boxes.device
    angle = torch.rand(batch, device=device) * 2 * math.pi
    beside = torch.rand(batch, device=device) < 0.6
    reach = boxes[:, 2] * torch.where(beside, 0.7 + 0.4 * torch.rand(batch, device=device), torch.full_like(angle, 0.2))
    center = boxes[:, :2] + reach[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    shrink = torch.where(
        beside, 0.5 + 0.5 * torch.rand(batch, device=device), 0.2 + 0.15 * torch.rand(batch, device=device)
    )
    return torch.cat([center, (boxes[:, 2] * shrink)[:, None], boxes[:, 3:]], dim=1)


def shuffled(images: Tensor, blocks: int = 4) -> Tensor:
    """(B, 3, h, w) with its blocks x blocks tiles in another order: a face's texture without a face."""
    batch, channels, height, width = images.shape
    h, w = height // blocks, width // blocks
    tiles = images[:, :, : h * blocks, : w * blocks].reshape(batch, channels, blocks, h, blocks, w)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).reshape(batch, blocks * blocks, channels, h, w)
    order = torch.rand(batch, blocks * blocks, device=images.device).argsort(dim=1)
    tiles = torch.gather(tiles, 1, order[:, :, None, None, None].expand_as(tiles))
    tiles = tiles.reshape(batch, blocks, blocks, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    return F.interpolate(tiles.reshape(batch, channels, h * blocks, w * blocks), size=(height, width))


def _some(batch: int, chance: float, device: torch.device) -> Tensor:
    """(B, 1, 1, 1) bool, each true with that chance."""
    return (torch.rand(batch, device=device) < chance).view(-1, 1, 1, 1)


def _uniform(batch: int, low: float, high: float, device: torch.device) -> Tensor:
    """(B, 1, 1, 1) uniform numbers."""
    return (low + (high - low) * torch.rand(batch, device=device)).view(-1, 1, 1, 1)


def spoil(images: Tensor, by: Augment) -> Tensor:
    """(B, 3, h, w) BGR in 0..1 -> the same, each made worse in its own random ways."""
    batch, device = len(images), images.device
    x = images
    if by.occlude:
        x = _occluded(x, by.occlude)
    if by.colour:
        gain = 1 + 0.25 * (torch.rand(batch, 3, 1, 1, device=device) - 0.5)
        contrast, offset = _uniform(batch, 0.6, 1.4, device), _uniform(batch, -0.2, 0.2, device)
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        changed = ((x * gain - mean) * contrast + mean + offset).clamp(0, 1)
        grey = changed.mean(dim=1, keepdim=True)
        changed = (grey + (changed - grey) * _uniform(batch, 0.4, 1.5, device)).clamp(0, 1)
        changed = changed.clamp(min=1e-4) ** torch.exp(_uniform(batch, -0.5, 0.5, device))
        x = torch.where(_some(batch, by.colour, device), changed, x)
    if by.grey:
        x = torch.where(_some(batch, by.grey, device), x.mean(dim=1, keepdim=True).expand_as(x), x)
    if by.dark:
        dark = x ** _uniform(batch, 1.2, 2.2, device) * _uniform(batch, 0.15, 0.6, device)
        dark = dark + 0.03 * torch.randn_like(x)
        x = torch.where(_some(batch, by.dark, device), dark.clamp(0, 1), x)
    if by.blur or by.motion:
        x = _blurred(x, by.blur, by.motion)
    if by.shrink:
        factor = 2 + int(torch.randint(0, 3, ()))
        small = F.interpolate(x, scale_factor=1 / factor, mode="area")
        coarse = F.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False)
        x = torch.where(_some(batch, by.shrink, device), coarse, x)
    if by.noise:
        noisy = x + _uniform(batch, 0.0, 0.08, device) * torch.randn_like(x)
        x = torch.where(_some(batch, by.noise, device), noisy, x)
    if by.jpeg:
        x = torch.where(_some(batch, by.jpeg, device), _jpeg(x), x)
    return x.clamp(0, 1)


def _occluded(x: Tensor, chance: float) -> Tensor:
    """An ellipse or rectangle in front of the face: one colour, noise, or a piece of another face's picture."""
    batch, _, height, width = x.shape
    device = x.device
    v = torch.linspace(-1, 1, height, device=device).view(1, 1, -1, 1)
    u = torch.linspace(-1, 1, width, device=device).view(1, 1, 1, -1)
    angle = _uniform(batch, 0, math.pi, device)
    du, dv = u - _uniform(batch, -0.9, 0.9, device), v - _uniform(batch, -0.9, 0.9, device)
    a = (du * angle.cos() + dv * angle.sin()) / _uniform(batch, 0.08, 0.5, device)
    b = (dv * angle.cos() - du * angle.sin()) / _uniform(batch, 0.08, 0.5, device)
    inside = torch.where(_some(batch, 0.5, device), a * a + b * b < 1, (a.abs() < 1) & (b.abs() < 1))
    colour = torch.rand(batch, 3, 1, 1, device=device) + 0.1 * torch.randn(batch, 1, height, width, device=device)
    other = x.roll(1, 0).flip(2)  # upside down, so that no second face is shown where the first one is
    filling = torch.where(_some(batch, 0.5, device), colour.clamp(0, 1), other)
    return torch.where(inside & _some(batch, chance, device), filling, x)


def _blurred(x: Tensor, blur: float, motion: float) -> Tensor:
    """Gaussian blur of up to 2.5 px, or motion along a line of up to 9 px (in proportion beyond 128-px crops)."""
    batch, channels, height, width = x.shape
    device = x.device
    grow = max(1.0, width / 128)
    half = int(4 * grow)
    at = torch.arange(-half, half + 1, device=device, dtype=torch.float32)
    dy, dx = torch.meshgrid(at, at, indexing="ij")
    sigma = grow * _uniform(batch, 0.4, 2.5, device)[:, 0]
    gauss = torch.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
    angle, reach = _uniform(batch, 0, math.pi, device)[:, 0], grow * _uniform(batch, 1.0, 4.5, device)[:, 0]
    along, across = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
    line = torch.exp(-across * across) * torch.sigmoid(4 * (reach - along.abs()))
    dice = torch.rand(batch, 1, 1, device=device)
    still = ((dx == 0) & (dy == 0)).float().expand_as(gauss)
    kernel = torch.where(dice < blur, gauss, torch.where(dice < blur + motion, line, still))
    kernel = kernel / kernel.sum(dim=(1, 2), keepdim=True)
    weight = kernel[:, None, None].expand(-1, channels, -1, -1, -1).reshape(batch * channels, 1, *kernel.shape[1:])
    padded = F.pad(x, (half,) * 4, mode="replicate").reshape(1, batch * channels, height + 2 * half, width + 2 * half)
    return F.conv2d(padded, weight, groups=batch * channels).view_as(x)


# JPEG's example luminance table (ITU-T T.81, annex K), here for all channels.
_QUANT = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def _jpeg(x: Tensor) -> Tensor:
    """What JPEG of quality 10 to 60 leaves: each 8x8 block's cosine coefficients rounded to coarse steps."""
    batch, channels, height, width = x.shape
    device = x.device
    k = torch.arange(8, device=device, dtype=torch.float32)
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * 0.5  # (frequency, place)
    basis[0] *= math.sqrt(0.5)
    quality = _uniform(batch, 10, 60, device)
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(-1, 1, 1, 1, 1, 1)
    steps = torch.tensor(_QUANT, device=device, dtype=torch.float32).view(1, 1, 1, 8, 1, 8) * factor / 255
    rows, columns = height // 8, width // 8
    blocks = x[:, :, : rows * 8, : columns * 8].reshape(batch, channels, rows, 8, columns, 8)
    waves = torch.einsum("fp,bcrpkq,gq->bcrfkg", basis, blocks - 0.5, basis)
    waves = torch.round(waves / steps) * steps
    blocks = torch.einsum("fp,bcrfkg,gq->bcrpkq", basis, waves, basis) + 0.5
    squeezed = blocks.reshape(batch, channels, rows * 8, columns * 8)
    return F.pad(squeezed, (0, width - columns * 8, 0, height - rows * 8), mode="replicate")
