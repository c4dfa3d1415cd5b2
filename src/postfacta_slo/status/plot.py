"""Plot how a budget was spent: an SVG for a page, coloured by the page's own classes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

from .status import SloStatus

__all__ = ["plot"]

_HEIGHT = 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 10, 26
_FEWEST: Final = 2
_SHORT: Final = 4 * 86_400
_SHARES: Final = (1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5)
_LOWEST: Final = -0.5  # An overspent budget is drawn down to here: what is below is as lost as it can be.


@dataclass(frozen=True, slots=True)
class _Frame:
    """The plot's axes: from one moment to another, from nothing spent down to the lowest share."""

    start: float
    end: float
    lowest: float
    width: int

    def x(self, moment: float) -> float:
        return _LEFT + (moment - self.start) / (self.end - self.start) * (self.width - _LEFT - _RIGHT)

    def y(self, share: float) -> float:
        down = (1 - max(share, self.lowest)) / (1 - self.lowest)
        return _TOP + down * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> str:
        lines = [self._level(share) for share in _SHARES if share >= self.lowest]
        middle = (self.start + self.end) / 2
        days = [(self.start, "start"), (middle, "middle"), (self.end, "end")]
        words = [_word(self.x(at), _HEIGHT - 8, self.moment(at), anchor=anchor) for at, anchor in days]
        return "\n".join([*lines, *words])

    def moment(self, at: float) -> str:
        """Write a moment, as exactly as the length of the plot asks for."""
        is_short = self.end - self.start < _SHORT
        return f"{datetime.fromtimestamp(at, UTC):{'%m-%d %H:%M' if is_short else '%Y-%m-%d'}}"

    def _level(self, share: float) -> str:
        kind, y = "plot-grid" if share else "plot-zero", self.y(share)
        line = f'<path class="{kind}" stroke-width="1" d="M{_LEFT} {y:.1f} H{self.width - _RIGHT}"/>'
        return line + _word(_LEFT - 8, y + 4, f"{share:.0%}", anchor="end")


def plot(one: SloStatus, *, width: int = 760) -> str:
    """Draw the share of the budget that was left at each moment of the window; empty if that is not known.

    It needs no script and no inline style, and takes its colours from the classes `plot-grid`, `plot-zero`,
    `plot-curve`, `plot-area` and `plot-text`.
    """
    if not one.is_known or len(one.spent) < _FEWEST:
        return ""
    left = [(moment, 1 - share) for moment, share in one.spent]
    frame = _Frame(left[0][0], left[-1][0], max(_LOWEST, min(0.0, *(share for _, share in left))), width)
    steps = "".join(f" H{frame.x(moment):.1f} V{frame.y(share):.1f}" for moment, share in left[1:])
    path = f"M{_LEFT} {frame.y(left[0][1]):.1f}{steps}"
    told = f"From {frame.moment(frame.start)} to {frame.moment(frame.end)}; at the end {left[-1][1]:.0%} is left."
    return (
        f'<svg class="plot" viewBox="0 0 {width} {_HEIGHT}" role="img" font-size="12" stroke-width="2">\n'
        f"<title>Budget of {escape(one.slo)} that was left</title>\n<desc>{told}</desc>\n{frame.grid()}\n"
        f'<path class="plot-area" stroke="none" d="{path} V{frame.y(0):.1f} H{_LEFT} Z"/>\n'
        f'<path class="plot-curve" fill="none" d="{path}"/>\n</svg>\n'
    )


def _word(x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text class="plot-text" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
