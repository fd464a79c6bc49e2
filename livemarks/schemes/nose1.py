"""The nose tip alone: point 52 of the IMM markup, as the CS194-26 exercise uses it."""

from livemarks.types import Scheme

# One point spans no box, so a tracker that knows only this finds the face anew in every frame.
SCHEME = Scheme(name="nose1", points=("nose_tip",), mirror=(0,), edges=(), norm=None, box_pad=None)
