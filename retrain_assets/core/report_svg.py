"""Charts of the report's page as inline SVG: bars, intervals, lines and calibration.

Holds the drawing of plain values; does not hold what is drawn or the page (`core/report_page.py`), nor the pictures in
Dagster (`core/plots.py`). Colours are the page's style variables, so that a chart follows light, dark and print. Every
chart has a title and a description for those who do not see it, and no text reaches it unescaped.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH = 680
LABEL_WIDTH = 190
LABEL_CHARACTERS = 28
ROW_HEIGHT = 22
TICKS = 5

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Mark:
    """One value of a row.

    Attributes
    ----------
    series : str
        Class of its colour: candidate, production, neutral or limit.
    value : float or None
        None draws nothing.
    low, high : float or None
        Its interval.
    """

    series: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """What every chart says in words.

    Attributes
    ----------
    ident : str
        Unique on the page, letters only.
    title, description : str
    axis : str
        What the numbers are, with the unit.
    legend : mapping
        Series to its name.
    """

    ident: str
    title: str
    description: str
    axis: str
    legend: Mapping[str, str]


def escaped(text: object, most: int | None = None) -> str:
    """Text as HTML may hold it: escaped, without control characters or those that turn the direction of writing.

    Parameters
    ----------
    text : object
    most : int, optional
        Characters; what is longer is cut and ends in an ellipsis.
    """
    plain = _UNSEEN.sub("\ufffd", str(text)).encode("utf-8", "replace").decode("utf-8")
    if most is not None and len(plain) > most:
        plain = plain[: most - 1] + "\u2026"
    return html.escape(plain, quote=True)


def bars(
    chart: Chart,
    rows: Sequence[tuple[str, Sequence[Mark]]],
    lines: Mapping[str, float] | None = None,
    cap: float | None = None,
) -> str:
    """Horizontal bars from zero, one group of bars a row, with whiskers where a mark has an interval.

    Parameters
    ----------
    chart : Chart
    rows : sequence of (label, marks)
    lines : mapping, optional
        Label to a value at which a vertical line is drawn.
    cap : float, optional
        Longer bars are cut here and show their number, so that one cannot hide the others.
    """
    rows = [(label, [mark for mark in marks if mark.value is not None]) for label, marks in rows]
    values = [min(value, math.inf if cap is None else cap) for value in (0.0, *_ends(rows), *(lines or {}).values())]
    body, bottom, x = _rows_frame([(label, max(len(marks), 1)) for label, marks in rows], values)
    y = 8.0
    for _, marks in rows:
        for mark in marks:
            is_cut = cap is not None and (mark.value or 0.0) > cap
            left, right = sorted((x(0.0), x(cap if cap is not None and is_cut else mark.value or 0.0)))
            if is_cut:
                body.append(f'<text x="{right + 4:.1f}" y="{y + 15:.1f}">{_number(mark.value or 0.0)}</text>')
            body.append(f'<rect class="{mark.series}" x="{left:.1f}" y="{y + 4:.1f}" width="{right - left:.1f}" '
                        f'height="{ROW_HEIGHT - 8}" rx="2"/>')  # fmt: skip
            body.append(_whisker(mark, x, y + ROW_HEIGHT / 2))
            y += ROW_HEIGHT
        y += 8 + (ROW_HEIGHT if not marks else 0)
    body.extend(_vertical(label, x(value), bottom) for label, value in (lines or {}).items())
    return _figure(chart, body, bottom)


def intervals(chart: Chart, rows: Sequence[tuple[str, Mark]], line: tuple[str, float] | None = None) -> str:
    """Points with their intervals, one a row; `line` is a labelled value to compare them with."""
    known = [(label, mark) for label, mark in rows if mark.value is not None]
    values = [*_ends([(label, [mark]) for label, mark in known]), *([line[1]] if line else [])]
    body, bottom, x = _rows_frame([(label, 1) for label, _ in known], values or [0.0, 1.0])
    for place, (_, mark) in enumerate(known):
        middle = 8 + place * (ROW_HEIGHT + 8) + ROW_HEIGHT / 2
        body.append(_whisker(mark, x, middle))
        body.append(f'<circle class="{mark.series}" cx="{x(mark.value or 0.0):.1f}" cy="{middle:.1f}" r="4.5"/>')
    if line:
        body.append(_vertical(line[0], x(line[1]), bottom))
    return _figure(chart, body, bottom)


def lines(chart: Chart, labels: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """Values over time, one line a series, gaps where a value is None.

    Parameters
    ----------
    chart : Chart
    labels : sequence of str
        Of the points, oldest first.
    series : mapping
        Class of the colour to values as many as labels.
    """
    known = [value for values in series.values() for value in values if value is not None]
    low, high = _padded(known or [0.0, 1.0])
    top, bottom, left = 10.0, 190.0, 60.0
    step = (WIDTH - left - 20) / max(len(labels) - 1, 1)
    y = _scale(low, high, bottom, top)
    body = []
    for tick in _ticks(low, high):
        body.append(f'<line class="grid" x1="{left}" x2="{WIDTH - 20}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        body.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    every = max(1, -(-len(labels) // 7))
    body.extend(
        f'<text x="{left + place * step:.1f}" y="{bottom + 20}" text-anchor="middle">{escaped(label, 12)}</text>'
        for place, label in list(enumerate(labels))[::every]
    )
    for name, values in series.items():
        points = [(left + place * step, None if value is None else y(value)) for place, value in enumerate(values)]
        body.append(_path(name, points))
        body.extend(f'<circle class="{name}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points if b is not None)
    return _figure(chart, body, bottom + 26)


def calibration(chart: Chart, tables: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Predicted against observed success rates with intervals; the diagonal is perfect.

    Parameters
    ----------
    chart : Chart
    tables : mapping
        Class of the colour to rows of `core.metrics.calibration_table`.
    """
    side, left, top = 300.0, 60.0, 10.0
    x, y = _scale(0, 1, left, left + side), _scale(0, 1, top + side, top)
    body = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body.append(f'<line class="grid" x1="{left}" x2="{left + side}" y1="{y(tick)}" y2="{y(tick)}"/>')
        body.append(f'<text x="{left - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:.0%}</text>')
        body.append(f'<text x="{x(tick)}" y="{top + side + 18}" text-anchor="middle">{tick:.0%}</text>')
    body.append(f'<line class="reference" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    for name, table in tables.items():
        points = []
        for row in table:
            at = (x(row["predicted"]), y(row["observed"]))
            points.append(at)
            body.append(f'<line class="{name} whisker" x1="{at[0]:.1f}" x2="{at[0]:.1f}" y1="{y(row["low"]):.1f}" '
                        f'y2="{y(row["high"]):.1f}"/>')  # fmt: skip
            body.append(f'<circle class="{name}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5"/>')
        body.append(_path(name, points))
    return _figure(chart, body, top + side + 24, left + side + 30)


def _rows_frame(
    rows: Sequence[tuple[str, int]], values: Sequence[float]
) -> tuple[list[str], float, Callable[[float], float]]:
    """Labels, grid and axis of a chart of rows; also its lower end and the scale of values."""
    bottom = 8.0 + sum(8 + count * ROW_HEIGHT for _, count in rows)
    low, high = _padded(values)
    x = _scale(low, high, LABEL_WIDTH + 10, WIDTH - 30)
    body = []
    for tick in _ticks(low, high):
        body.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{bottom}"/>')
        body.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{_number(tick)}</text>')
    y = 8.0
    for label, count in rows:
        middle = y + count * ROW_HEIGHT / 2 + 4
        body.append(f'<text class="label" x="{LABEL_WIDTH}" y="{middle:.1f}" text-anchor="end">'
                    f"{escaped(label, LABEL_CHARACTERS)}<title>{escaped(label, 200)}</title></text>")  # fmt: skip
        y += 8 + count * ROW_HEIGHT
    return body, bottom + 22, x


def _figure(chart: Chart, body: Sequence[str], height: float, width: float = WIDTH) -> str:
    height += 22
    names = "".join(
        f'<span class="key"><i class="{name}"></i>{escaped(words, 60)}</span>' for name, words in chart.legend.items()
    )
    return (
        f'<figure><figcaption>{escaped(chart.title)}{names}</figcaption>'
        f'<svg role="img" aria-labelledby="{chart.ident}-t {chart.ident}-d" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{width:.0f}px">'
        f'<title id="{chart.ident}-t">{escaped(chart.title)}</title>'
        f'<desc id="{chart.ident}-d">{escaped(chart.description)}</desc>'
        f'{"".join(body)}<text class="axis" x="{width - 30:.0f}" y="{height - 4:.0f}" text-anchor="end">'
        f"{escaped(chart.axis)}</text></svg></figure>"
    )  # fmt: skip


def _whisker(mark: Mark, x: Callable[[float], float], y: float) -> str:
    if mark.low is None or mark.high is None:
        return ""
    return (
        f'<line class="whisker" x1="{x(mark.low):.1f}" x2="{x(mark.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line class="whisker" x1="{x(mark.low):.1f}" x2="{x(mark.low):.1f}" y1="{y - 4:.1f}" y2="{y + 4:.1f}"/>'
        f'<line class="whisker" x1="{x(mark.high):.1f}" x2="{x(mark.high):.1f}" y1="{y - 4:.1f}" y2="{y + 4:.1f}"/>'
    )


def _vertical(label: str, x: float, bottom: float) -> str:
    return (
        f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{bottom - 22}">'
        f"<title>{escaped(label, 100)}</title></line>"
    )


def _path(name: str, points: Sequence[tuple[float, float | None]]) -> str:
    path, is_pen_up = "", True
    for a, b in points:
        if b is not None:
            path += f"{'M' if is_pen_up else 'L'}{a:.1f} {b:.1f}"
        is_pen_up = b is None
    return f'<path class="{name}" d="{path}"/>' if path else ""


def _ends(rows: Sequence[tuple[str, Sequence[Mark]]]) -> list[float]:
    marks = [mark for _, group in rows for mark in group]
    return [value for mark in marks for value in (mark.value, mark.low, mark.high) if value is not None]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high == 0:
        return 0.0, 1.0
    pad = (high - low) * 0.05 or abs(high) * 0.1 or 0.5
    return (low if low == 0 else low - pad), (high if high == 0 else high + pad)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    def place(value: float) -> float:
        return start + (value - low) / (high - low) * (end - start)

    return place


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.4g}" if value else "0"
