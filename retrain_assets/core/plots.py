"""Pictures of a report and of a canary's evidence, as PNG bytes and as a tiny inline SVG.

Holds drawing; does not compute what it draws (`core/metrics.py`, `core/canary.py`) and writes no file. Every
function takes plain values, as the report's JSON holds them, so that a picture can be drawn again from a
stored report. Figures are built without pyplot: no window, and nothing is kept between calls.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

CANDIDATE, PRODUCTION, NEUTRAL, LIMIT = "#0b6e99", "#d9822b", "#6b7280", "#b42318"
"""The colours of every picture: readable in grey and for colour-blind eyes."""
SPARKLINE_LIMIT = 1_000
"""Characters below which Dagster renders markdown inline."""
_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.8,
    "savefig.dpi": 110,
    "svg.hashsalt": "retrain_assets",
}
_WIDTH = 5.2


def calibration_plot(
    candidate: Sequence[Mapping[str, float]], production: Sequence[Mapping[str, float]] | None = None
) -> bytes:
    """Predicted against observed success rates, with 95 % intervals.

    Parameters
    ----------
    candidate, production : sequence of mapping
        Rows of `core.metrics.calibration_table`.

    Returns
    -------
    bytes
        PNG.
    """
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(4.2)
        axes.plot([0, 1], [0, 1], color=NEUTRAL, linewidth=1, linestyle="--", label="perfect")
        for table, colour, label in ((production, PRODUCTION, "production"), (candidate, CANDIDATE, "candidate")):
            if table:
                _points_with_intervals(axes, table, colour, label)
        axes.set(
            xlabel="predicted P(success)",
            ylabel="observed success rate",
            title="Calibration on test rows",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
        )
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.legend(loc="upper left")
        return _png(figure)


def action_plot(by_action: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Observed and predicted success rate of each action.

    Parameters
    ----------
    by_action : mapping
        Action to metrics, as `core.metrics.evaluate` gives them.
    """
    names = sorted(by_action)
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(0.9 + 0.55 * max(len(names), 2))
        height = 0.36
        for offset, key, colour, label in (
            (-height / 2, "success_rate", NEUTRAL, "observed"),
            (height / 2, "predicted_rate", CANDIDATE, "predicted"),
        ):
            rates = [by_action[name][key] or 0.0 for name in names]
            places = [position + offset for position in range(len(names))]
            bars = axes.barh(places, rates, height=height, color=colour, label=label)
            axes.bar_label(bars, labels=[f"{rate:.0%}" for rate in rates], padding=3, fontsize=8)
        axes.set_yticks(range(len(names)), [f"{name} (n = {by_action[name]['n']:,})" for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="success rate", title="Success by action on test rows", xlim=(0, 1.12))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        _percent(axes.xaxis)
        _legend_below(figure, axes)
        return _png(figure)


def importance_plot(
    importance: Mapping[str, float], previous: Mapping[str, float] | None = None, most: int = 15
) -> bytes:
    """Rise of log loss when a column is shuffled, and what it was for the previous model.

    Parameters
    ----------
    importance, previous : mapping
        Column to rise in nats, as `core.metrics.feature_importance` gives it.
    most : int, default 15
        Columns shown, the most important ones.
    """
    names = sorted(importance, key=lambda name: -importance[name])[:most]
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(1.0 + 0.26 * max(len(names), 3))
        places = range(len(names))
        axes.barh(places, [importance[name] for name in names], height=0.6, color=CANDIDATE, label="this model")
        if previous:
            before = [previous.get(name, 0.0) for name in names]
            axes.plot(before, places, "D", color=PRODUCTION, markersize=4.5, label="previous model")
            _legend_below(figure, axes)
        axes.axvline(0, color="#9ca3af", linewidth=1)
        axes.set_yticks(places, [name.removeprefix("feature_") for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="rise of log loss when shuffled (nats)", title="Feature importance on test rows")
        return _png(figure)


def drift_plot(features: Sequence[Mapping[str, Any]], most: int = 15) -> bytes:
    """Population stability index of each feature, and what chance stays below.

    Parameters
    ----------
    features : sequence of mapping
        `core.drift.FeatureDrift.to_dict`; those without a PSI are left out.
    most : int, default 15
        Features shown, the most changed ones.
    """
    known = sorted((item for item in features if item["psi"] is not None), key=lambda item: -item["psi"])[:most]
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(1.0 + 0.26 * max(len(known), 3))
        places = range(len(known))
        axes.barh(places, [item["psi"] for item in known], height=0.6, color=CANDIDATE, label="PSI")
        noise = [item["psi_noise"] or 0.0 for item in known]
        axes.plot(noise, places, "D", color=NEUTRAL, markersize=4.5, label="chance stays below (95 %)")
        axes.axvline(0.25, color=LIMIT, linewidth=1, linestyle="--", label="drift (0.25)")
        axes.set_yticks(places, [item["name"] for item in known])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        # One feature that is new altogether, such as the month, would leave nothing to see of the others.
        axes.set_xscale("symlog", linthresh=0.5)
        axes.set(xlabel="population stability index", title="Drift since production's data")
        _legend_below(figure, axes)
        return _png(figure)


def walk_forward_plot(weeks: Sequence[Mapping[str, Any]], labels: Mapping[str, str] | None = None) -> bytes:
    """Log loss on the newest rows, week by week.

    Parameters
    ----------
    weeks : sequence of mapping
        In order: `week` (its key), `candidate`, and optionally `production` and `trivial` log loss (nats,
        None where unknown).
    labels : mapping, optional
        Other words for `candidate`, `production` and `trivial` in the legend.
    """
    words = {"candidate": "candidate", "production": "production", "trivial": "constant guess", **(labels or {})}
    with mpl.rc_context(_STYLE):
        figure, (axes,) = _figure(3.0)
        for key, colour in (("trivial", NEUTRAL), ("production", PRODUCTION), ("candidate", CANDIDATE)):
            values = [float("nan") if week.get(key) is None else float(week[key]) for week in weeks]
            if any(value == value for value in values):  # noqa: PLR0124  (false for NaN alone)
                style = "--" if key == "trivial" else "-"
                axes.plot(range(len(weeks)), values, style, marker=".", color=colour, label=words[key])
        step = max(1, -(-len(weeks) // 8))
        places = range(0, len(weeks), step)
        axes.set_xticks(places, [str(weeks[place]["week"]) for place in places], rotation=30, ha="right")
        axes.set(xlabel="week", ylabel="log loss (nats)", title="Walk-forward log loss (lower is better)")
        if weeks:
            _legend_below(figure, axes)
        return _png(figure)


def evidence_plot(points: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> bytes:
    """Evidence against a canary over time, and the success rate of each arm.

    Parameters
    ----------
    points : sequence of mapping
        In order of time: `at` (aware datetime or ISO 8601), `relative` and `absolute` (evidence, 1 = none),
        and `rates`: arm to {`rate`, `low`, `high`, `n`}.
    limits : mapping
        Label to the evidence at which something happens, such as {"roll back": 111.1, "hold": 20.0}.
    """
    times = [float(date2num(_instant(point["at"]))) for point in points]  # type: ignore[no-untyped-call]
    with mpl.rc_context(_STYLE):
        figure, (top, bottom) = _figure(4.6, rows=2)
        for key, colour, label in (
            ("relative", CANDIDATE, "against production"),
            ("absolute", NEUTRAL, "against the limits"),
        ):
            top.plot(times, [max(float(point[key]), 1e-3) for point in points], color=colour, label=label)
        for label, value in limits.items():
            top.axhline(value, color=LIMIT, linewidth=1, linestyle="--")
            top.annotate(
                f"{label}: {value:.3g}", (1, value), xycoords=("axes fraction", "data"),
                xytext=(0, 2), textcoords="offset points", ha="right", fontsize=8, color=LIMIT,
            )  # fmt: skip
        top.set_yscale("log")
        top.set(ylabel="evidence (e-value)", title="Evidence that the canary is worse")
        top.legend(loc="upper left")
        _draw_rates(bottom, times, points)
        locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
        bottom.xaxis.set_major_locator(locator)
        bottom.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        bottom.set(xlabel="time (UTC)", ylabel="success rate", title="Success rate with 95 % interval")
        _percent(bottom.yaxis)
        return _png(figure)


def data_uri(png: bytes) -> str:
    """A PNG as a `data:` URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def markdown_image(png: bytes, title: str) -> str:
    """A PNG as a markdown image with its bytes inside."""
    return f"![{title}]({data_uri(png)})"


def sparkline_svg(values: Sequence[float | None], title: str = "trend", limit: float | None = None) -> str:
    """A line of up to 60 values as a markdown image, under 1,000 characters.

    Parameters
    ----------
    values : sequence of float or None
        In order; None is a gap. The newest 60 are drawn.
    title : str, default "trend"
        The image's alternative text; cut at 60 characters.
    limit : float, optional
        Drawn as a dashed line.

    Returns
    -------
    str
        `![title](data:image/svg+xml,...)`; `""` when there is no value at all.
    """
    width, height, pad = 180, 36, 4
    shown = list(values)[-60:]
    known = [value for value in shown if value is not None and value == value]  # noqa: PLR0124  (NaN)
    if not known:
        return ""
    low, high = min(known + ([] if limit is None else [limit])), max(known + ([] if limit is None else [limit]))

    def y(value: float) -> int:
        return round(height - pad - (height - 2 * pad) * ((value - low) / (high - low) if high > low else 0.5))

    step = (width - 2 * pad) / max(len(shown) - 1, 1)
    path, pen_up, last = "", True, (0, 0)
    for position, value in enumerate(shown):
        if value is None or value != value:  # noqa: PLR0124  (NaN)
            pen_up = True
            continue
        last = (round(pad + position * step), y(value))
        path += f"{'M' if pen_up else 'L'}{last[0]} {last[1]}"
        pen_up = False
    rule = "" if limit is None else f"<path d='M0 {y(limit)}H{width}' stroke='{LIMIT}' stroke-dasharray='3'/>"
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' fill='none'>{rule}"
        f"<path d='{path}' stroke='{CANDIDATE}'/>"
        f"<circle cx='{last[0]}' cy='{last[1]}' r='2.5' fill='{CANDIDATE}'/></svg>"
    )
    safe_title = title[:60].replace("[", "(").replace("]", ")")
    return f"![{safe_title}](data:image/svg+xml,{quote(svg, safe=_SAFE_IN_URI)})"


_SAFE_IN_URI = "/:='-"


def _instant(at: datetime | str) -> datetime:
    return at if isinstance(at, datetime) else datetime.fromisoformat(at)


def _figure(height: float, rows: int = 1) -> tuple[Figure, tuple[Axes, ...]]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, tuple(figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the software's name and version in it, the same values give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _points_with_intervals(axes: Axes, table: Sequence[Mapping[str, float]], colour: str, label: str) -> None:
    observed = [row["observed"] for row in table]
    below = [max(row["observed"] - row["low"], 0.0) for row in table]
    above = [max(row["high"] - row["observed"], 0.0) for row in table]
    rows = int(sum(row["n"] for row in table))
    axes.errorbar(
        [row["predicted"] for row in table],
        observed,
        yerr=[below, above],
        fmt="o-",
        color=colour,
        markersize=4,
        elinewidth=0.9,
        capsize=2,
        label=f"{label} ({rows:,} rows)",
    )


def _draw_rates(axes: Axes, times: Sequence[float], points: Sequence[Mapping[str, Any]]) -> None:
    arms = sorted({arm for point in points for arm in point["rates"]}, reverse=True)
    colours = {"production": PRODUCTION, "canary": CANDIDATE}
    for arm in arms:
        seen = [(at, point["rates"][arm]) for at, point in zip(times, points, strict=True) if arm in point["rates"]]
        at, rates = [item[0] for item in seen], [item[1] for item in seen]
        colour = colours.get(arm, NEUTRAL)
        axes.fill_between(
            at, [rate["low"] for rate in rates], [rate["high"] for rate in rates], color=colour, alpha=0.18
        )
        axes.plot(at, [rate["rate"] for rate in rates], color=colour, label=f"{arm} (n = {rates[-1]['n']:,})")
    if arms:
        axes.legend(loc="lower left")


def _percent(axis: Any) -> None:  # noqa: ANN401  (an x or a y axis)
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=len(labels))
