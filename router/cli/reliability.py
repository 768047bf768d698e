"""Draw how right a classifier is at each confidence, as SVG; written by hand, without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WIDTH, _HEIGHT = 420, 470
_LEFT, _TOP, _SIDE, _COUNTS = 56, 40, 330, 40
_RED, _GREY, _INK = "#d1495b", "#999999", "#333333"


def drawn(measured: Mapping[str, Any]) -> str:
    """Return a reliability diagram of the figures of `judging.judge`.

    Each dot is a bin of confidence, the dashed line is where confidence equals accuracy; the bars below are
    the share of the rows in each bin.
    """
    bins = measured["reliability"]
    dots = [(_x(b["confidence"]), _y(b["accuracy"])) for b in bins]
    head = f"ECE {measured['ece']:.3f}, accuracy {measured['accuracy']:.3f}, {measured['rows']:,} rows"
    most = max(b["rows"] for b in bins)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 22, head, "start", 13),
        *_axes(),
        f'<path d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}" stroke="{_GREY}" stroke-dasharray="5 4" fill="none"/>',
        f'<path d="M{"L".join(f"{x} {y}" for x, y in dots)}" stroke="{_RED}" stroke-width="2" fill="none"/>',
        *(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{_RED}"/>' for x, y in dots),
        *(_bar(b, most) for b in bins),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axes() -> list[str]:
    """Return the grid with its numbers, and what the axes are."""
    lines = []
    for tenth in range(0, 11, 2):
        x, y, number = _x(tenth / 10), _y(tenth / 10), f"{tenth / 10:.1f}"
        lines += [
            f'<path d="M{_LEFT} {y}h{_SIDE}M{x} {_TOP}v{_SIDE}" stroke="#e3e3e3" fill="none"/>',
            _text(_LEFT - 8, y + 4, number, "end"),
            _text(x, _TOP + _SIDE + 16, number, "middle"),
        ]
    middle = _TOP + _SIDE / 2
    return [
        *lines,
        _text(_LEFT + _SIDE / 2, _HEIGHT - 8, "confidence; bars: share of the rows", "middle"),
        f'<g transform="rotate(-90 16 {middle})">{_text(16, middle, "share that is right", "middle")}</g>',
    ]


def _bar(b: Mapping[str, float], most: float) -> str:
    height = round(_COUNTS * b["rows"] / most, 1)
    left, right = _x(b["from"]), _x(b["to"])
    bottom = _TOP + _SIDE + 24 + _COUNTS
    return (
        f'<rect x="{left + 1}" y="{bottom - height}" width="{round(right - left - 2, 1)}" height="{height}" '
        f'fill="{_GREY}"/>'
    )


def _text(x: float, y: float, words: str, anchor: str, size: int = 11) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{_INK}">{words}</text>'


def _x(share: float) -> float:
    return round(_LEFT + _SIDE * share, 1)


def _y(share: float) -> float:
    return round(_TOP + _SIDE * (1 - share), 1)
