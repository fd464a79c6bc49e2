"""livemarks: real-time facial landmarks."""

__version__ = "0.1.0"
