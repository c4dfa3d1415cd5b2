"""Write the state of objectives: as text, JSON, Markdown or a page with plots."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Final

from ..promise.model import in_words
from .query import ENOUGH, SloStatus

_HEIGHT = 168
_LEFT = 48
_RIGHT = 12
_TOP = 10
_BOTTOM = 26
_FEWEST: Final = 2  # Points that make a curve.
_SHORT: Final = 4 * 86_400  # Seconds; a longer curve has days on its axis, and no hours.
_SHARES: Final = (1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5)
# An overspent budget is drawn down to here: what is below is as lost as it can be.
_LOWEST: Final = -0.5


def plot(status: SloStatus, *, width: int = 760) -> str:
    """Draw the share of the budget that was left at each moment of the window.

    Empty if that is not known.

    It needs no script and no inline style, and takes its colours from the classes `plot-grid`,
    `plot-zero`, `plot-curve`, `plot-area` and `plot-text`.
    """
    if not status.is_known or len(status.spent) < _FEWEST:
        return ""
    left = [(at, 1 - share) for at, share in status.spent]
    start = left[0][0]
    end = left[-1][0]
    right = width - _RIGHT
    lowest = max(_LOWEST, min(0.0, *(share for _, share in left)))

    def x(at: float) -> float:
        return _LEFT + (at - start) / (end - start) * (right - _LEFT)

    def y(share: float) -> float:
        height = _HEIGHT - _TOP - _BOTTOM
        return _TOP + (1 - max(share, lowest)) / (1 - lowest) * height

    def day(at: float) -> str:
        shape = "%m-%d %H:%M" if end - start < _SHORT else "%Y-%m-%d"
        return f"{datetime.fromtimestamp(at, UTC):{shape}}"

    grid = [
        f'<path class="{"plot-grid" if share else "plot-zero"}" stroke-width="1" d="M{_LEFT}'
        f' {y(share):.1f} H{right}"/>'
        + _word(_LEFT - 8, y(share) + 4, f"{share:.0%}", anchor="end")
        for share in _SHARES
        if share >= lowest
    ]
    middle = (start + end) / 2
    for at, anchor in ((start, "start"), (middle, "middle"), (end, "end")):
        grid.append(_word(x(at), _HEIGHT - 8, day(at), anchor=anchor))
    steps = "".join(f" H{x(at):.1f} V{y(share):.1f}" for at, share in left[1:])
    path = f"M{_LEFT} {y(left[0][1]):.1f}{steps}"
    return "\n".join(
        [
            (
                f'<svg class="plot" viewBox="0 0 {width} {_HEIGHT}" role="img" font-size="12"'
                ' stroke-width="2">'
            ),
            f"<title>Budget of {escape(status.slo)} that was left</title>",
            f"<desc>From {day(start)} to {day(end)}; at the end {left[-1][1]:.0%} is left.</desc>",
            *grid,
            f'<path class="plot-area" stroke="none" d="{path} V{y(0):.1f} H{_LEFT} Z"/>',
            f'<path class="plot-curve" fill="none" d="{path}"/>',
            "</svg>\n",
        ]
    )


def _word(x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text class="plot-text" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


_EXACT: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The requested objectives."""

    source: str  # The Prometheus that was asked, as it may be shown.
    at: float  # The end of the window, in seconds since the epoch.
    window: float  # Seconds.
    statuses: Sequence[SloStatus]  # In the order in which they are shown.


def render(report: Report, form: str) -> str:
    """Write a report in one of `FORMATS`, with a line's end at its end."""
    return _RENDERERS[form](report)


def percent(ratio: float, digits: int = 3) -> str:
    """Write a share with up to `digits` digits, at least 1, rounded down.

    99.4999 is not yet 99.5.
    """
    scale = 10.0**digits
    # What a float holds a little below a digit is that digit.
    rounded = math.floor(ratio * 100 * scale + 1e-6) / scale
    text = f"{rounded:,.{digits}f}".rstrip("0").rstrip(".")
    return f"{text} %"


def facts(status: SloStatus) -> list[tuple[str, str]]:
    coverage = ("coverage", percent(status.coverage, 1))
    burn = ("burn", _burn(status))
    if not status.is_known:
        return [("state", _insufficient(status)), burn, coverage]
    rows = [
        ("achieved", percent(status.achieved)),
        ("budget", _amount(status, 1.0) or f"{percent(status.allowed)} of all"),
        ("spent", _share(status, 1 - status.remaining)),
        ("remaining", _share(status, status.remaining)),
        burn,
        ("exhausted in", _exhausted(status)),
    ]
    if status.hours is not None:
        rows.append(("hours met", "{:g} of {:g}".format(*status.hours)))
    if status.judged is not None:
        rows.append(("judged slices", percent(status.judged, 1)))
    return [*rows, coverage]


def _share(status: SloStatus, share: float) -> str:
    amount = _amount(status, share)
    return f"{amount} ({percent(share, 1)})" if amount else percent(share, 1)


def _amount(status: SloStatus, share: float) -> str:
    if status.total is None:
        return ""
    amount = share * status.allowed * status.total
    digits = 0 if abs(amount) >= _EXACT else 1
    text = f"{amount:,.{digits}f}".removesuffix(".0")
    unit = "min" if status.unit == "minutes" else "events"
    return f"{text} {unit}"


def _exhausted(status: SloStatus) -> str:
    present = status.exhausted_in
    if present is None:
        return "not at this rate" if status.burn else "unknown"
    return in_words(present) if present else "already exhausted"


def _insufficient(status: SloStatus) -> str:
    if status.coverage < ENOUGH:
        return (
            f"insufficient data: {percent(status.coverage, 1)} of the window is recorded,"
            f" {percent(ENOUGH)} is needed"
        )
    return "insufficient data: there was nothing to judge"


def _burn(status: SloStatus) -> str:
    if not status.burn:
        return "unknown"
    return ", ".join(f"{rate:.3g}x over {over}" for over, rate in status.burn.items())


def _title(report: Report) -> str:
    at = datetime.fromtimestamp(report.at, UTC)
    return f"Objectives over {in_words(report.window)} up to {at:%Y-%m-%d %H:%M} UTC"


def _name(status: SloStatus) -> str:
    return f"{status.service} / {status.slo}: {percent(status.objective)}"


def _rows(status: SloStatus) -> list[tuple[str, str]]:
    return facts(status) + [
        ("failed", f"{count:,.0f} at {route}") for route, count in status.routes
    ]


def _text(report: Report) -> str:
    lines = [f"{_title(report)}, from {report.source}"]
    for status in report.statuses:
        lines += ["", _name(status)]
        lines += [f"  {name:<14}{value}" for name, value in _rows(status)]
    return "\n".join(lines) + "\n"


def _markdown(report: Report) -> str:
    lines = [f"# {_title(report)}", "", f"From {_inert(report.source)}."]
    for status in report.statuses:
        rows = [f"| {name} | {_inert(value)} |" for name, value in _rows(status)]
        lines += ["", f"## {_inert(_name(status))}", "", "| | |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _inert(text: str) -> str:
    """Return one line of Markdown that opens no HTML, link or cell."""
    entities = str.maketrans({"<": "&lt;", "[": "&#91;", "|": "&#124;"})
    return " ".join(text.splitlines()).translate(entities)


def _json(report: Report) -> str:
    document = {
        "source": report.source,
        "at": datetime.fromtimestamp(report.at, UTC).isoformat(),
        "window_seconds": report.window,
        "objectives": [_members(status) for status in report.statuses],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _members(status: SloStatus) -> Mapping[str, object]:
    head: dict[str, object] = {
        "service": status.service,
        "slo": status.slo,
        "objective": status.objective,
        "unit": status.unit,
        "coverage": status.coverage,
        "sufficient": status.is_known,
        "burn": dict(status.burn),
    }
    if not status.is_known:
        return head
    return head | {
        "achieved": status.achieved,
        "total": status.total,
        "budget": None if status.total is None else status.total * status.allowed,
        "remaining_ratio": status.remaining,
        "exhausted_in_seconds": status.exhausted_in,
        "hours": status.hours and dict(zip(("met", "known"), status.hours, strict=True)),
        "judged": status.judged,
        "failures": dict(status.routes),
    }


def _html(report: Report) -> str:
    title = escape(_title(report))
    style = files("postfacta_slo.status").joinpath("report.css").read_text(encoding="utf-8")
    sections = "\n".join(_section(status) for status in report.statuses)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="soft">From {escape(report.source)}</p>
{sections}
</body>
</html>
"""


def _section(status: SloStatus) -> str:
    rows = "\n".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _rows(status)
    )
    head = f"<h2>{escape(_name(status))}</h2>"
    return f"<section>\n{head}\n<dl>\n{rows}\n</dl>\n{plot(status)}</section>"


_RENDERERS: Final[Mapping[str, Callable[[Report], str]]] = {
    "text": _text,
    "json": _json,
    "md": _markdown,
    "html": _html,
}
FORMATS: Final = tuple(_RENDERERS)  # What a report can be written as.
