"""The points of every frame as a table: one row a point, none for a frame without faces."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from livemarks.sinks._output import Lines, TimeOrigin
from livemarks.types import U8, Result, Scheme, SourceInfo, Tally

_COLUMNS = ("frame", "t", "id", "score", "point", "x", "y", "sigma")


class Sink:
    """Writes `path`, or to standard output if it is "-". Points are numbered from 0, as their scheme lists them.

    names: of images, by frame index; they make one more column. Pixels are rounded to 1/1000, seconds to the
    microsecond, so that two runs give the same bytes.
    """

    wants_pixels = False

    def __init__(
        self,
        path: str,
        info: SourceInfo,
        *,
        scheme: Scheme,  # noqa: ARG002 - a table has no header to put these in; its points are plain to see
        model: str,  # noqa: ARG002
        backend: str,  # noqa: ARG002
        names: Sequence[str] | None = None,
    ) -> None:
        self._names = names
        self._origin = TimeOrigin(info.live)
        self._lines = Lines(path, info.path)
        self._begun = False

    def write(self, result: Result, image: U8 | None, tally: Tally) -> None:  # noqa: ARG002 - points only
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        if not self._begun:
            rows.writerow(_COLUMNS if self._names is None else (*_COLUMNS, "image"))
            self._begun = True
        index, t = result.frame.index, f"{self._origin.since(result.frame.t_s):.6f}"
        name = () if self._names is None else (self._names[index],)
        for face in result.faces:
            head = (index, t, face.id, f"{face.landmarks.presence:.3f}")
            points = zip(face.landmarks.xy.tolist(), face.landmarks.sigma.tolist(), strict=True)
            for point, ((x, y), sigma) in enumerate(points):
                rows.writerow((*head, point, f"{x:.3f}", f"{y:.3f}", f"{sigma:.3f}", *name))
        self._lines.write(text.getvalue())

    def close(self) -> None:
        self._lines.close()
