"""What a task costs, against how many there are: the rows of the trend, and their plot."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks import histories
from benchmarks.measuring import COMMITS, Row, Scale, database, interleave, warm
from benchmarks.tasks import parallel, pure_sequential, sequential, tasks_per_second

SIZES, SHORT_SIZES = (10, 100, 1_000, 10_000), (10, 100, 1_000)
CONTINUED, SHORT_CONTINUED = (1_000, 10_000, 100_000), (1_000, 10_000)
WORKLOAD = "trend"
INCHES, DOTS_PER_INCH = (7.0, 4.5), 120


def costs(scale: Scale) -> list[Row]:
    """The cost of one task in executions of more and more: run one after another, at once, and continued."""
    bodies = {"sequential": sequential, "sequential pure": pure_sequential, "parallel": parallel}
    rows = []
    with database(scale.folder) as path:
        warm(path, lambda: tasks_per_second(sequential, COMMITS))
        for size in SHORT_SIZES if scale.is_short else SIZES:
            sides: dict[str, Callable[[], float]] = {
                name: lambda body=body, size=size: 1e6 / tasks_per_second(body, size)  # type: ignore[misc]
                for name, body in bodies.items()
            }
            found = interleave(3, sides)
            rows += [_row(name, size, figures) for name, figures in found.items()]
        for size in SHORT_CONTINUED if scale.is_short else CONTINUED:
            continued = [1e6 * histories.measured(path, size)[0] / size for _ in range(2)]
            rows.append(_row("continued", size, continued))
    return sorted(rows, key=lambda row: row.what)


def _row(what: str, size: int, figures: list[float]) -> Row:
    return Row(workload=WORKLOAD, what=what, size=size, unit="µs", figures=figures)


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the cost of a task against how many there are, as PNG and SVG; nothing without rows of the trend.

    Raises:
        ImportError: There is no matplotlib.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.size is not None:
            series.setdefault(row.what, []).append((row.size, median(row.figures)))
    if not series:
        return []
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow, and of no use to those who only measure.

    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="tasks of the execution", ylabel="µs a task")
    for what, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=what)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter("" if axis is axes.xaxis else "{x:,.0f}")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    paths = [folder / f"trend.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    return paths
