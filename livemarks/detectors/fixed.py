"""A detector that is told the answer: the same boxes in every frame, for tests and benches."""

from collections.abc import Sequence

from livemarks.types import FaceBox, Frame, LivemarksError


class Detector:
    """Returns `boxes` for every frame, best score first.

    Raises LivemarksError if it is given a range and how many faces are wanted instead, as detectors with eyes are.
    """

    def __init__(self, boxes: Sequence[FaceBox] | str, faces: int | None = None) -> None:  # noqa: ARG002
        if isinstance(boxes, str):
            raise LivemarksError("the detector called fixed sees nothing, it is told its boxes; choose another one")
        self._boxes = tuple(sorted(boxes, key=lambda box: -box.score))

    def __call__(self, frame: Frame) -> tuple[FaceBox, ...]:  # noqa: ARG002 - it has no eyes
        return self._boxes

    def close(self) -> None:
        """Holds nothing."""
