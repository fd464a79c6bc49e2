"""The points of every frame as JSON lines: a header, then one line a frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from livemarks import __version__
from livemarks.sinks._output import Lines, TimeOrigin
from livemarks.types import U8, FaceTrack, Result, Scheme, SourceInfo, Tally


class Sink:
    """Writes `path`, or to standard output if it is "-".

    names: of images, by frame index; each line then says which image it belongs to. Pixels are rounded to 1/1000,
    seconds to the microsecond, so that two runs give the same bytes.
    """

    wants_pixels = False

    def __init__(
        self,
        path: str,
        info: SourceInfo,
        *,
        scheme: Scheme,
        model: str,
        backend: str,
        names: Sequence[str] | None = None,
    ) -> None:
        width, height = info.size_wh or (None, None)
        self._header: dict[str, Any] | None = {
            "livemarks": __version__,
            "scheme": scheme.name,
            "source": info.name,
            "width": width,
            "height": height,
            "fps": None if info.fps is None else round(float(info.fps), 6),
            "model": model,
            "backend": backend,
        }
        self._names = names
        self._origin = TimeOrigin(info.live)
        self._lines = Lines(path, info.path)

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:  # noqa: ARG002 - points only
        frame = result.frame
        line: dict[str, Any] = {"frame": frame.index, "t": round(self._origin.since(frame.t_s), 6)}
        if self._names is not None:
            line["image"] = self._names[frame.index]
        line["faces"] = [_face(face) for face in result.faces]
        header = "" if self._header is None else json.dumps(self._header, ensure_ascii=False) + "\n"
        self._header = None
        self._lines.write(header + json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._lines.close()


def _face(face: FaceTrack) -> dict[str, Any]:
    landmarks = face.landmarks
    return {
        "id": face.id,
        "score": round(float(landmarks.presence), 3),
        "box": _rounded(face.box.xyxy),
        "points": _rounded(landmarks.xy),
        "sigma": _rounded(landmarks.sigma),
    }


def _rounded(pixels: NDArray[Any]) -> list[Any]:
    thousandths: list[Any] = np.round(pixels.astype(np.float64), 3).tolist()
    return thousandths
