"""A probe's figure, by matplotlib. No pyplot, whose figures stay until they are closed, and no
setting of the user's is changed or counts."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from freezecheck.probe import panels as drawn
from freezecheck.probe.panels import GRID, INK, PAPER, QUIET, Panel
from freezecheck.report import warmup as told

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from freezecheck.probe.report import ProbeReport

WIDTH = 4.2  # inches of a panel
_SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 14.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "font.size": 10.0,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.borderaxespad": 0.0,
    "legend.columnspacing": 1.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.4,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.2,
    "svg.fonttype": "none",  # text stays text
    "text.color": INK,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
}


def required() -> Any:
    """matplotlib. Raises ImportError, with one line on what to install, where it is not there."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ImportError(
            "pictures need matplotlib: pip install 'freezecheck[plot]'", name="matplotlib"
        ) from None
    return matplotlib


def figure(report: ProbeReport) -> Figure:
    """All panels that there are data for, in two columns."""
    required()
    from matplotlib.figure import Figure

    shown = [*drawn.panels(report.warmup)]
    columns = 2 if len(shown) > 1 else 1
    pairs = [shown[i : i + columns] for i in range(0, len(shown), columns)]
    heights = [max(panel.height for panel in pair) + 0.3 for pair in pairs]
    size = (WIDTH * columns, sum(heights) + 0.4)
    with _settings():
        made = Figure(figsize=size, layout="constrained", facecolor=PAPER)
        made.suptitle(f"{report.zone}: {told.verdict(report)}", x=0.01, ha="left", weight="bold")
        if shown:
            parts = made.subfigures(
                len(pairs), columns, squeeze=False, wspace=0.04, height_ratios=heights
            )
            for index, panel in enumerate(shown):
                axes = parts[divmod(index, columns)].add_subplot()
                axes.set_title(panel.title)
                panel.draw(axes)
    return made


def svg(panel: Panel) -> str:
    """One panel as an SVG element, on whatever is behind it."""
    required()
    from matplotlib.figure import Figure

    file = io.StringIO()
    with _settings(**{"svg.hashsalt": panel.key}):
        made = Figure(figsize=(WIDTH, panel.height), layout="constrained", facecolor="none")
        panel.draw(made.add_subplot())
        silent = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        made.savefig(file, format="svg", metadata=silent)
    text = file.getvalue()
    return text[text.index("<svg") :].rstrip()


@contextlib.contextmanager
def _settings(**more: str) -> Iterator[None]:
    """matplotlib's own defaults and ours, within the block."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS | more)
        yield
