"""Draws horizontal bars as SVG, for docs/benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# Of what is Sluice's, and of what it is compared with.
OWN, OTHER = "#2563eb", "#94a3b8"
_WIDTH, _HEIGHT, _NAMES, _LONGEST = 760, 26, 230, 430
_LEGEND = 4  # entries in a line


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        parts: (length, colour) of each part, in the unit that all bars share.
        text: stands behind the bar.
    """

    name: str
    parts: Sequence[tuple[float, str]]
    text: str

    @property
    def length(self) -> float:
        """Return the length of all parts."""
        return sum(length for length, _ in self.parts)


def bars(
    title: str,
    rows: Sequence[Bar | str],
    *,
    legend: Mapping[str, str] | None = None,
    mark: float | None = None,
) -> str:
    """Return an SVG of bars, one below the other.

    Args:
        title: what the bars measure, with the unit.
        rows: a text is the heading of the bars below it.
        legend: name -> colour of parts.
        mark: length at which a line is drawn, such as an aim.
    """
    drawn = [bar for bar in rows if isinstance(bar, Bar)]
    unit = _LONGEST / max([*(bar.length for bar in drawn), mark or 0.0])
    entries = list((legend or {}).items())
    below = _HEIGHT * (len(rows) + 1) + 4
    height = below + 22 * -(-len(entries) // _LEGEND)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" role="img"'
        f' font-family="system-ui, sans-serif" font-size="13" aria-label="{escape(title)}">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(8, 17, title),
    ]
    for at, row in enumerate(rows, start=1):
        top = _HEIGHT * at
        if isinstance(row, str):
            lines.append(_text(8, top + 17, row, bold=True))
        else:
            lines += _bar(row, top, unit)
    if mark is not None:
        x = _NAMES + 8 + unit * mark
        path = f"M{x:.0f} {_HEIGHT}V{below}"
        lines.append(f'<path d="{path}" stroke="#b45309" stroke-dasharray="4 3"/>')
    for at, (name, colour) in enumerate(entries):
        left, y = 8 + 185 * (at % _LEGEND), below + 22 * (at // _LEGEND)
        lines += [_rectangle(left, y, 12, 12, colour), _text(left + 18, y + 11, name)]
    return "\n".join([*lines, "</svg>", ""])


def _bar(bar: Bar, top: int, unit: float) -> list[str]:
    x, lines = _NAMES + 8.0, [_text(_NAMES, top + 17, bar.name, end=True)]
    for length, colour in bar.parts:
        width = max(1.0, unit * length)
        lines.append(_rectangle(x, top + 4, width, 18, colour))
        x += width
    return [*lines, _text(x + 6, top + 17, bar.text)]


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, end: bool = False, bold: bool = False) -> str:
    style = (' text-anchor="end"' if end else "") + (' font-weight="600"' if bold else "")
    return f'<text x="{x:.0f}" y="{y}"{style} fill="#222">{escape(text)}</text>'
