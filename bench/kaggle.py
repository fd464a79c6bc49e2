"""A submission for Kaggle's Facial Keypoints Detection: points on test.csv, whose labels Kaggle keeps to itself.

    python bench/kaggle.py --data DIR --model kth15 --out submission.csv

DIR holds Kaggle's test.csv and IdLookupTable.csv. The net sees each 96x96 picture whole, as where
`bench/accuracy.py --set kaggle` measures it on training.csv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from _faces import label_box, watched
from _options import to_write

from livemarks import api
from livemarks.landmarker import Landmarker
from livemarks.train._files import whole
from livemarks.train.samples import KAGGLE_COLUMNS, read_kaggle, read_rows
from livemarks.types import LivemarksError


def read_lookup(table: Path) -> list[tuple[str, str, int]]:
    """RowId, ImageId and which of a face's 30 numbers, for each that is asked for. Raises LivemarksError if unclear."""
    header, *rows = list(read_rows(table)) or [[]]
    if header != ["RowId", "ImageId", "FeatureName", "Location"]:
        raise LivemarksError(f"{table}: not the columns of Kaggle's IdLookupTable.csv")
    try:
        return [(row, image, KAGGLE_COLUMNS.index(feature)) for row, image, feature, _ in filter(None, rows)]
    except ValueError as error:
        raise LivemarksError(f"{table}: a line asks for no coordinate of Kaggle's 15 points: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of Kaggle's two tables")
    parser.add_argument("--model", default="kth15-modern", metavar="NAME", help="net or .onnx file (%(default)s)")
    parser.add_argument("--backend", default="onnx", help="what runs the net (%(default)s)")
    parser.add_argument("--out", type=to_write, required=True, metavar="CSV", help="where the submission goes")
    options = parser.parse_args(arguments)
    try:
        asked = read_lookup(options.data / "IdLookupTable.csv")
        faces, problems = read_kaggle(options.data / "test.csv")
        for line in problems:
            print(f"left out: {line}", file=sys.stderr)
        shown = {face.name for face in faces}
        for _, image, _ in asked:
            if image not in shown:
                raise LivemarksError(f"IdLookupTable.csv asks for image {image}, which test.csv doesn't show")
        net, answers = api.open_net(options.model, backend=options.backend), {}
        with closing(net.runner):
            if net.scheme.name != "kaggle15":
                raise LivemarksError(f"{net.card.name} finds {net.scheme.name} points; Kaggle asks for kaggle15's")
            landmarker = Landmarker(net.runner, net.card, net.scheme)
            for face in watched(faces, "test.csv"):
                picture = face.read()
                (landmarks,) = landmarker(picture, [label_box(face, picture, net.card.margin)])
                answers[face.name] = landmarks.xy.ravel().tolist()
        with whole(options.out) as out:
            lines = [f"{row},{answers[image][column]:.5f}\n" for row, image, column in asked]
            out.write("".join(["RowId,Location\n", *lines]).encode())
    except (LivemarksError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
