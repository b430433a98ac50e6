"""A suite's plots: one point for each measured row and data set, with intervals and names, as PNG."""

from __future__ import annotations

import io
import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.measured import Measured, finished, lines, measured, of_cell
from harness.printed import printable
from harness.record import Record
from harness.suite import Axis, Plot, Preset, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg

DPI = 150
# Okabe and Ito's palette, which people with colour-blindness tell apart; without its yellow, faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "os^DvP*X"
_CROWDED = 14  # more points than that carry numbers, and their names stand beside the plot
_LED = 0.15  # inches from a point from which on a line leads to its label
_LARGEST = 1e100  # what is measured is smaller; matplotlib fails on the largest floats
_NEAR_DECADE = 5.0  # a logarithmic axis that spans less is numbered like a linear one

# Left, bottom, right, top in pixels.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """One row on one data set, in the axes' units."""

    label: str
    method: str
    data: str
    x: Measured
    y: Measured


def plot(
    plot: Plot, rows: Mapping[str, Row], preset: Preset, records: Sequence[Record], notes: Sequence[str] = ()
) -> bytes | None:
    """The plot as a PNG of 150 dots an inch, ``notes`` of the run below its title; None with fewer than two points.

    A colour is a method, a marker a data set; bars are the intervals of `harness.measured.measured`. Rows without both
    numbers are left out, and on a logarithmic axis those that are not above 0.
    """
    points = _points(plot, rows, preset, records)
    if len(points) < 2:
        return None
    images = sorted({record.evaluation.images for record in finished(records)})
    judged = f"on {' and '.join(map(str, images))} images; bars: the intervals of the tables"
    return _png(plot, [preset.description, *notes, judged], points)


def _points(plot: Plot, rows: Mapping[str, Row], preset: Preset, records: Sequence[Record]) -> list[Point]:
    found = []
    for name, row, data_names in lines(rows, plot.rows, preset, plot.data):
        for data_name in data_names:
            done = finished(of_cell(records, name, data_name))
            if not done:
                continue
            x, y = (measured(done, axis.metric).scaled(axis.scale) for axis in (plot.x, plot.y))
            if _fits(x, plot.x) and _fits(y, plot.y):
                found.append(Point(row.title, row.method, data_name, x, y))
    return found


def _fits(value: Measured, axis: Axis) -> bool:
    return abs(value.value) < _LARGEST and not (axis.log and value.value <= 0)  # a NaN is neither


def _png(plot: Plot, notes: Sequence[str], points: Sequence[Point]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = _by_name([one.method for one in points], _COLOURS)
    markers = _by_name([one.data for one in points], _MARKERS)
    numbers = _by_name([one.label for one in points], [str(number) for number in range(1, len(points) + 1)])
    crowded = len(points) > _CROWDED
    size = (10.5, max(5.5, 1.2 + 0.17 * (len(numbers) + len(markers)))) if crowded else (8.0, 5.0)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _frame(axes, plot, notes)
    for one in points:
        _draw_point(axes, one, colours[one.method], markers[one.data])
    for name, axis in (("x", plot.x), ("y", plot.y)):
        _axis(axes, name, axis, [getattr(one, name).value for one in points])
    entries = [("0.4", marker, name) for name, marker in markers.items() if len(markers) > 1]
    if crowded:
        methods = {one.label: one.method for one in points}
        entries += [(colours[methods[name]], "o", f"{number}  {name}") for name, number in numbers.items()]
    _key(axes, entries)
    canvas.draw()  # places in pixels are known only now
    figure.set_layout_engine("none")
    axes.autoscale(False)
    labels = [numbers[one.label] if crowded else one.label for one in points]
    _labels(axes, points, labels, [colours[one.method] for one in points], canvas.get_renderer())
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()


def _frame(axes: Axes, plot: Plot, notes: Sequence[str]) -> None:
    below = textwrap.wrap("; ".join(notes), 110)
    axes.set_title(_text(plot.title), fontsize=12, loc="left", pad=10 + 12 * len(below))
    text = _text("\n".join(below))
    axes.text(0, 1.02, text, transform=axes.transAxes, fontsize=8, color="0.35", va="bottom", in_layout=False)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.12, 0.14)


def _text(text: str) -> str:
    """Plain text for matplotlib, which sets what stands between dollars as a formula; AP^r with its index."""
    # Beyond ASCII letters and digits, what stands between dollars may be no formula.
    return re.sub(r"\^([A-Za-z0-9])", r"$^{\1}$", printable(text, lines=True).replace("$", r"\$"))


def _by_name(names: Sequence[str], looks: Sequence[str]) -> dict[str, str]:
    return dict(zip(dict.fromkeys(names), itertools.cycle(looks), strict=False))


def _draw_point(axes: Axes, point: Point, colour: str, marker: str) -> None:
    def ends(value: Measured) -> list[list[float]] | None:
        # A percentile interval need not hold the value, and matplotlib takes no negative length.
        lengths = (value.value - value.low, value.high - value.value)
        return None if math.isnan(value.half) else [[max(0.0, length)] for length in lengths]

    axes.errorbar(
        [point.x.value], [point.y.value], xerr=ends(point.x), yerr=ends(point.y), color=colour, marker=marker,
        markersize=7, markeredgecolor="white", markeredgewidth=0.8, elinewidth=1.0, capsize=2.5,
    )  # fmt: skip


def _axis(axes: Axes, name: str, axis: Axis, values: Sequence[float]) -> None:
    from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    getattr(axes, f"set_{name}label")(_text(axis.title) + (" (logarithmic)" if axis.log else ""), fontsize=10)
    if not axis.log:
        if min(values) >= 0:  # room below what cannot be says something false
            getattr(axes, f"set_{name}lim")(**{("left" if name == "x" else "bottom"): 0.0})
        return
    getattr(axes, f"set_{name}scale")("log")
    ticks = getattr(axes, f"{name}axis")
    near = max(values) < _NEAR_DECADE * min(values)
    ticks.set_major_locator(AutoLocator() if near else LogLocator(subs=(1.0, 2.0, 5.0)))
    ticks.set_minor_locator(NullLocator())
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ticks.set_minor_formatter(NullFormatter())


def _key(axes: Axes, entries: Sequence[tuple[str, str, str]]) -> None:
    """Colour, marker and name of each entry, beside the plot."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, marker=m, linestyle="", label=_text(name)) for c, m, name in entries]
    if handles:
        axes.legend(
            handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0
        )


def _labels(
    axes: Axes, points: Sequence[Point], labels: Sequence[str], colours: Sequence[str], renderer: RendererAgg
) -> None:
    """Write each label beside its point, where it covers no other thing; a line leads to one that is farther away."""
    pixels = [tuple(axes.transData.transform((one.x.value, one.y.value))) for one in points]
    texts = [
        axes.text(0, 0, _text(label), fontsize=8, color=_darker(colour), zorder=5)
        for label, colour in zip(labels, colours, strict=True)
    ]
    sizes = [(box.width, box.height) for box in (text.get_window_extent(renderer) for text in texts)]
    things = [box for one, centre in zip(points, pixels, strict=True) for box in _covered(axes, one, centre)]
    frame = axes.get_window_extent(renderer)
    places = place(pixels, sizes, things, (frame.x0, frame.y0, frame.x1, frame.y1))
    back = axes.transData.inverted()
    for text, corner, centre, size in zip(texts, places, pixels, sizes, strict=True):
        text.set_position(tuple(back.transform(corner)))
        nearest = tuple(min(max(at, low), low + length) for at, low, length in zip(centre, corner, size, strict=True))
        if math.dist(nearest, centre) > _LED * DPI:
            (x0, y0), (x1, y1) = back.transform(nearest), back.transform(centre)
            axes.plot([x0, x1], [y0, y1], color="0.6", linewidth=0.6, zorder=1)


def _darker(colour: str) -> tuple[float, ...]:
    """Thin letters need more contrast than a marker does."""
    return tuple(0.7 * int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))


def _covered(axes: Axes, point: Point, centre: tuple[float, float]) -> list[Box]:
    """The marker of a point and its two error bars."""
    half = 0.035 * DPI
    boxes = [(centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)]
    if not math.isnan(point.x.half):
        (x0, _), (x1, _) = axes.transData.transform([(end, point.y.value) for end in (point.x.low, point.x.high)])
        boxes.append((x0, centre[1] - 1, x1, centre[1] + 1))
    if not math.isnan(point.y.half):
        (_, y0), (_, y1) = axes.transData.transform([(point.x.value, end) for end in (point.y.low, point.y.high)])
        boxes.append((centre[0] - 1, y0, centre[0] + 1, y1))
    return boxes


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], things: Sequence[Box], frame: Box
) -> list[tuple[float, float]]:
    """Lower left corners for labels of ``sizes`` beside ``points``, all in pixels.

    One label after the other takes the nearest of its places that covers no thing, no label before it, and nothing
    outside the frame; where all do, the one that covers least.
    """
    taken = list(things)
    corners = []
    for point, size in zip(points, sizes, strict=True):
        boxes = list(_candidates(point, size))
        costs = (sum(_overlap(box, other) for other in taken) + 2.0 * _outside(box, frame) for box in boxes)
        best = min(zip(costs, range(len(boxes)), strict=True))[1]  # the earlier, and so the nearer, of equals
        taken.append(boxes[best])
        corners.append(boxes[best][:2])
    return corners


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> list[Box]:
    """Places on rings around the point, nearest ring first: right, left, above, below, then the corners."""
    (x, y), (width, height) = point, size
    found = []
    for ring in range(8):
        gap = (0.075 + 0.1 * ring) * DPI
        for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            left = x + across * gap + {1: 0.0, 0: -0.5 * width, -1: -width}[across]
            bottom = y + up * gap + {1: 0.0, 0: -0.5 * height, -1: -height}[up]
            found.append((left, bottom, left + width, bottom + height))
    return found


def _overlap(one: Box, other: Box) -> float:
    """Common area in square pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
