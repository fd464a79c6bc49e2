"""Smooths a face's points over time: still where the face is still, at once where it moves.

After the 1 Euro filter (Casiez, Roussel and Vogel, CHI 2012): a low-pass whose cutoff rises with the point's movement.
Three things differ. A face's movement is split into what it does as a whole (shift, turn and growth, told by all points
together and so nearly free of noise) and what its points do within it, and each part has cutoffs of its own. Movement
is measured in sigmas of the net's own uncertainty, so that tuning depends neither on resolution nor on distance. And it
enters squared, without a second low-pass: sigma already tells movement from noise, and a blink may last one frame.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from livemarks.types import F32, F64, Landmarks, LivemarksError, Scheme, Smoother

# After a pause this long, or a jump back, the past says nothing: start anew.
_PAUSE_S = 0.5
# What passes between frames whose stamps stand still or step back a little (damaged files): one frame at 30 FPS.
_NOMINAL_S = 1 / 30
# Eyelids and lips weigh this little in the fit of the whole face's movement: they move by themselves.
_LIGHT_WEIGHT = 0.3
# ... and may move this many times as freely as the other points, while still and per squared sigma of movement: a blink
# is over in a frame or two, but lids at rest should tremble no more than the rest.
_LIGHT_CUTOFF, _LIGHT_BETA = 1.5, 3.0
# A face's whole is known this much better than one of its points: their errors are alike, or it would be sqrt(68). One
# point is known no better than itself.
_RIGID_GAIN = 2.0
# A face that grows or shrinks by more than this from one frame to the next is another face.
_MAX_GROWTH = 1.5
# A sigma says how far a point may be off, most of which is steady; its trembling grows more slowly, about as the cube
# root (exponents of 0, 1/3, 0.6 and 1 tried on talking_face_a), from this one on: a good net's, in fractions of the
# face's size, which is the rms radius of its points. Sigmas beyond so many times that are an uncalibrated net's.
_USUAL_SIGMA, _SIGMA_RANGE = 0.02, (0.1, 10.0)
# Low-pass of the velocity that `extrapolate_s` goes on with: slower than the points, because it magnifies noise.
_VELOCITY_CUTOFF_HZ = 3.0


class Raw:
    """No smoothing: the points as the net gave them."""

    def __init__(self, scheme: Scheme) -> None:
        del scheme

    def __call__(self, landmarks: Landmarks, t_s: float) -> Landmarks:
        """The same landmarks."""
        del t_s
        return landmarks


class OneEuro:
    """One face's filter. It has state: one instance a face.

    cutoff_hz: lowest cutoff of a point's movement within the face; rigid_cutoff_hz: of the whole face's.
    beta_hz, rigid_beta_hz: what a gap of one sigma between new and smoothed position adds to the cutoff (two sigmas add
    four times that). extrapolate_s: what is returned is the face as it will be so much later, if it goes on moving as
    a whole as it does; for display, to make up for the pipeline's latency. Costs steadiness.
    """

    def __init__(
        self,
        scheme: Scheme,
        *,
        cutoff_hz: float,
        beta_hz: float,
        rigid_cutoff_hz: float,
        rigid_beta_hz: float,
        extrapolate_s: float = 0.0,
    ) -> None:
        light = np.zeros(len(scheme), bool)
        light[list(scheme.light)] = True
        self._weight: F64 = np.where(light, _LIGHT_WEIGHT, 1.0)
        self._cutoff_hz: F64 = cutoff_hz * np.where(light, _LIGHT_CUTOFF, 1.0)
        self._beta_hz: F64 = beta_hz * np.where(light, _LIGHT_BETA, 1.0)
        self._rigid_cutoff_hz, self._rigid_beta_hz = rigid_cutoff_hz, rigid_beta_hz
        self._extrapolate_s = extrapolate_s
        self._at: NDArray[np.complex128] | None = None  # (N,) smoothed points as x + iy: one product turns and scales
        self._t_s = 0.0
        self._shift_per_s = self._turn_per_s = 0j  # px, and log growth + i radians

    def __call__(self, landmarks: Landmarks, t_s: float) -> Landmarks:
        """The landmarks of the frame at t_s, smoothed; sigma and presence stay the net's."""
        new = landmarks.xy.astype(np.float64).view(np.complex128)[:, 0]
        dt_s, self._t_s = t_s - self._t_s, t_s
        if self._at is None or abs(dt_s) > _PAUSE_S:
            return self._restart(landmarks, new)
        if dt_s <= 0:
            dt_s = _NOMINAL_S

        # The similarity from the smoothed points to the new ones: least squares, weighted by certainty.
        sigma = self._tremble(landmarks.sigma)
        weight = self._weight / (sigma * sigma)
        weight /= weight.sum()
        old_mean, new_mean = weight @ self._at, weight @ new
        old, new = self._at - old_mean, new - new_mean
        pull = weight * old.conj()
        spread = float((pull @ old).real)  # px^2; 0 if there is one point only, which neither turns nor grows
        growth = complex(pull @ new) / spread if spread > 0 else 1 + 0j
        if not 1 / _MAX_GROWTH < abs(growth) < _MAX_GROWTH:
            return self._restart(landmarks, new + new_mean)

        # The whole: shift and turn, each let through as far as its gap in sigmas says.
        unit = float(sigma.sum()) / len(sigma) / min(_RIGID_GAIN, math.sqrt(len(sigma)))
        shift, turn = complex(new_mean - old_mean), cmath.log(growth)
        shift *= self._rigid_share(abs(shift) / unit, dt_s)
        turn *= self._rigid_share(abs(turn) * math.sqrt(spread) / unit, dt_s)
        turned = cmath.exp(turn)

        # The points within it.
        gap = new / growth - old  # (N,)
        beyond = gap / sigma
        rate = self._cutoff_hz + self._beta_hz * (beyond.real**2 + beyond.imag**2)
        rate *= 2 * math.pi * dt_s
        mean = old_mean + shift
        within = turned * (old + gap * (rate / (1 + rate)))
        self._at = mean + within
        if self._extrapolate_s == 0:
            return _moved(landmarks, self._at)
        share = _share(_VELOCITY_CUTOFF_HZ, dt_s)
        self._shift_per_s += share * (shift / dt_s - self._shift_per_s)
        self._turn_per_s += share * (turn / dt_s - self._turn_per_s)
        ahead = cmath.exp(self._turn_per_s * self._extrapolate_s)
        return _moved(landmarks, mean + self._shift_per_s * self._extrapolate_s + ahead * within)

    def _tremble(self, sigma: F32) -> F64:
        """(N,) px: by how much each point may tremble, going by the net's sigma."""
        assert self._at is not None
        own = self._at - self._at.sum() / len(self._at)
        usual = _USUAL_SIGMA * math.sqrt(float(np.vdot(own, own).real) / len(own))
        if usual == 0:  # one point, or several that coincide, has no size to go by
            return np.maximum(sigma.astype(np.float64), 1e-3)  # gaps are divided by it, so it must not be 0
        low, high = _SIGMA_RANGE
        tempered: F64 = np.cbrt(np.minimum(np.maximum(sigma / usual, low), high)) * usual  # np.clip takes 3 us more
        return tempered

    def _rigid_share(self, gap_sigmas: float, dt_s: float) -> float:
        return _share(self._rigid_cutoff_hz + self._rigid_beta_hz * gap_sigmas * gap_sigmas, dt_s)

    def _restart(self, landmarks: Landmarks, at: NDArray[np.complex128]) -> Landmarks:
        self._at = at
        self._shift_per_s = self._turn_per_s = 0j
        return landmarks


def _share(cutoff_hz: float, dt_s: float) -> float:
    """How much of a gap a first-order low-pass closes in one step (1 Euro's alpha)."""
    rate = 2 * math.pi * cutoff_hz * dt_s
    return rate / (1 + rate)


def _moved(landmarks: Landmarks, at: NDArray[np.complex128]) -> Landmarks:
    xy: Any = at.view(np.float64).reshape(-1, 2)
    return Landmarks(landmarks.scheme, xy, landmarks.sigma, landmarks.presence)


# Chosen on bench/stability.py's plot of flicker against lag.
_PRESETS: dict[str, dict[str, float]] = {
    "light": {"cutoff_hz": 2.0, "beta_hz": 3.0, "rigid_cutoff_hz": 20.0, "rigid_beta_hz": 30.0},
    "medium": {"cutoff_hz": 0.8, "beta_hz": 0.9, "rigid_cutoff_hz": 12.0, "rigid_beta_hz": 20.0},
    "strong": {"cutoff_hz": 0.2, "beta_hz": 0.5, "rigid_cutoff_hz": 3.0, "rigid_beta_hz": 4.0},
}
PRESETS = ("off", *_PRESETS)


def preset(name: str, extrapolate_s: float = 0.0) -> Callable[[Scheme], Smoother]:
    """What makes a smoother for each new face: off, light, medium or strong. Raises LivemarksError for other names."""
    if name not in PRESETS:
        raise LivemarksError(f"no smoothing is called {name!r}; there are: {', '.join(PRESETS)}")
    if name == "off":
        return Raw
    return lambda scheme: OneEuro(scheme, **_PRESETS[name], extrapolate_s=extrapolate_s)
