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
_FEWEST: Final = 2
_SHORT: Final = 4 * 86_400
_SHARES: Final = (1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5)
_LOWEST: Final = (
    -0.5
)  # An overspent budget is drawn down to here: what is below is as lost as it can be.


def plot(one: SloStatus, *, width: int = 760) -> str:
    """Draw the share of the budget that was left at each moment of the window.

    Empty if that is not known.

    It needs no script and no inline style, and takes its colours from the classes `plot-grid`,
    `plot-zero`, `plot-curve`, `plot-area` and `plot-text`.
    """
    if not one.is_known or len(one.spent) < _FEWEST:
        return ""
    left = [(at, 1 - share) for at, share in one.spent]
    start = left[0][0]
    end = left[-1][0]
    right = width - _RIGHT
    lowest = max(_LOWEST, min(0.0, *(share for _, share in left)))

    def x(at: float) -> float:
        return _LEFT + (at - start) / (end - start) * (right - _LEFT)

    def y(share: float) -> float:
        return _TOP + (1 - max(share, lowest)) / (1 - lowest) * (_HEIGHT - _TOP - _BOTTOM)

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
    days = ((start, "start"), ((start + end) / 2, "middle"), (end, "end"))
    grid += [_word(x(at), _HEIGHT - 8, day(at), anchor=anchor) for at, anchor in days]
    steps = "".join(f" H{x(at):.1f} V{y(share):.1f}" for at, share in left[1:])
    path = f"M{_LEFT} {y(left[0][1]):.1f}{steps}"
    return "\n".join(
        [
            (
                f'<svg class="plot" viewBox="0 0 {width} {_HEIGHT}" role="img" font-size="12"'
                ' stroke-width="2">'
            ),
            f"<title>Budget of {escape(one.slo)} that was left</title>",
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
    return (
        f"{math.floor(ratio * 100 * scale + 1e-6) / scale:,.{digits}f}".rstrip("0").rstrip(".")
        + " %"
    )


def facts(one: SloStatus) -> list[tuple[str, str]]:
    coverage = ("coverage", percent(one.coverage, 1))
    burn = ("burn", _burn(one))
    if not one.is_known:
        return [("state", _insufficient(one)), burn, coverage]
    found = [
        ("achieved", percent(one.achieved)),
        ("budget", _amount(one, 1.0) or f"{percent(one.allowed)} of all"),
        ("spent", _share(one, 1 - one.remaining)),
        ("remaining", _share(one, one.remaining)),
        burn,
        ("exhausted in", _exhausted(one)),
    ]
    if one.hours is not None:
        found.append(("hours met", "{:g} of {:g}".format(*one.hours)))
    if one.judged is not None:
        found.append(("judged slices", percent(one.judged, 1)))
    return [*found, coverage]


def _share(one: SloStatus, share: float) -> str:
    amount = _amount(one, share)
    return f"{amount} ({percent(share, 1)})" if amount else percent(share, 1)


def _amount(one: SloStatus, share: float) -> str:
    if one.total is None:
        return ""
    amount = share * one.allowed * one.total
    digits = 0 if abs(amount) >= _EXACT else 1
    return f"{amount:,.{digits}f}".removesuffix(".0") + (
        " min" if one.unit == "minutes" else " events"
    )


def _exhausted(one: SloStatus) -> str:
    present = one.exhausted_in
    if present is None:
        return "not at this rate" if one.burn else "unknown"
    return in_words(present) if present else "already exhausted"


def _insufficient(one: SloStatus) -> str:
    if one.coverage < ENOUGH:
        return (
            f"insufficient data: {percent(one.coverage, 1)} of the window is recorded,"
            f" {percent(ENOUGH)} is needed"
        )
    return "insufficient data: there was nothing to judge"


def _burn(one: SloStatus) -> str:
    if not one.burn:
        return "unknown"
    return ", ".join(f"{rate:.3g}x over {over}" for over, rate in one.burn.items())


def _title(report: Report) -> str:
    at = datetime.fromtimestamp(report.at, UTC)
    return f"Objectives over {in_words(report.window)} up to {at:%Y-%m-%d %H:%M} UTC"


def _name(one: SloStatus) -> str:
    return f"{one.service} / {one.slo}: {percent(one.objective)}"


def _told(one: SloStatus) -> list[tuple[str, str]]:
    return facts(one) + [("failed", f"{count:,.0f} at {route}") for route, count in one.routes]


def _text(report: Report) -> str:
    lines = [f"{_title(report)}, from {report.source}"]
    for one in report.statuses:
        lines += ["", _name(one), *(f"  {name:<14}{value}" for name, value in _told(one))]
    return "\n".join(lines) + "\n"


def _markdown(report: Report) -> str:
    lines = [f"# {_title(report)}", "", f"From {_inert(report.source)}."]
    for status in report.statuses:
        rows = [f"| {name} | {_inert(value)} |" for name, value in _told(status)]
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
        "objectives": [_members(one) for one in report.statuses],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _members(one: SloStatus) -> Mapping[str, object]:
    head: dict[str, object] = {
        "service": one.service,
        "slo": one.slo,
        "objective": one.objective,
        "unit": one.unit,
        "coverage": one.coverage,
        "sufficient": one.is_known,
        "burn": dict(one.burn),
    }
    if not one.is_known:
        return head
    return head | {
        "achieved": one.achieved,
        "total": one.total,
        "budget": None if one.total is None else one.total * one.allowed,
        "remaining_ratio": one.remaining,
        "exhausted_in_seconds": one.exhausted_in,
        "hours": one.hours and dict(zip(("met", "known"), one.hours, strict=True)),
        "judged": one.judged,
        "failures": dict(one.routes),
    }


def _html(report: Report) -> str:
    title = escape(_title(report))
    style = files("postfacta_slo.status").joinpath("report.css").read_text(encoding="utf-8")
    sections = "\n".join(_section(one) for one in report.statuses)
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


def _section(one: SloStatus) -> str:
    told = "\n".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _told(one)
    )
    return f"<section>\n<h2>{escape(_name(one))}</h2>\n<dl>\n{told}\n</dl>\n{plot(one)}</section>"


_RENDERERS: Final[Mapping[str, Callable[[Report], str]]] = {
    "text": _text,
    "json": _json,
    "md": _markdown,
    "html": _html,
}
FORMATS: Final = tuple(_RENDERERS)  # What a report can be written as.
