"""log.csv, a row a report, and the plot of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from livemarks.train._files import whole


class Log:
    """log.csv, a row a report; plots itself."""

    columns = (
        "step",
        "lr",
        "loss",
        "sigma",
        "presence",
        "val_nme",
        "val_rmse_px",
        "val_mse",
        "sigma_ratio",
        "val_presence",
    )

    def __init__(self, path: Path, keep_until: int) -> None:
        self.path = path
        rows = [row for row in self._rows() if int(row["step"]) <= keep_until] if keep_until and path.is_file() else []
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        with whole(path) as file:
            file.write(text.getvalue().encode())

    def write(self, **row: float) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(
                {name: value if isinstance(value, int) else f"{value:.6g}" for name, value in row.items()}
            )

    def _rows(self) -> list[dict[str, str]]:
        """The rows that are whole: a run that was killed, or had no room left, may have torn the last one."""
        lines = self.path.read_text("utf-8", errors="replace").splitlines(keepends=True)
        rows = csv.DictReader([line for line in lines if line.endswith("\n")])
        return [row for row in rows if set(row) <= set(self.columns) and None not in row.values()]

    def plot(self, path: Path, title: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = self._rows()
        figure, left = pyplot.subplots(figsize=(7, 4))
        shown = [r for r in rows if r["loss"]]
        left.plot([int(r["step"]) for r in shown], [float(r["loss"]) for r in shown], color="tab:grey")
        left.set(xlabel="step", ylabel="training loss", yscale="log", title=title)
        right = left.twinx()
        judged = [r for r in rows if r["val_nme"]]
        right.plot([int(r["step"]) for r in judged], [float(r["val_nme"]) for r in judged], color="tab:blue")
        right.set_ylabel("validation NME, %", color="tab:blue")
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
