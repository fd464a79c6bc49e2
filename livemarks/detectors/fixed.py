"""A detector that is told the answer: the same boxes in every frame, for tests and benches."""

from collections.abc import Sequence

from livemarks.types import FaceBox, Frame


class Detector:
    """Returns `boxes` for every frame, best score first."""

    def __init__(self, boxes: Sequence[FaceBox]) -> None:
        self._boxes = tuple(sorted(boxes, key=lambda box: -box.score))

    def __call__(self, frame: Frame) -> tuple[FaceBox, ...]:  # noqa: ARG002 - it has no eyes
        return self._boxes

    def close(self) -> None:
        """Holds nothing."""
