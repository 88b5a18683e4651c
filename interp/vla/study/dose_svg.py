"""The dose curve as a small SVG for documents: readable on light and dark pages, no script, no fonts of its own."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from interp.files.writing import atomic_path
from interp.pages.html_page import COLORS
from interp.vla.policy import words
from interp.vla.study.contests import TARGETS
from interp.vla.study.study import Study

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720.0, 360.0, 56.0, 16.0, 34.0, 46.0
_INK, _BAND = "#7d8590", "#8c8577"


def dose_svg(found: Study, path: Path) -> None:
    """Effect over strength: the cluster, its opposite, the band of random sets, and the word in the prompt."""
    concept = found.options.concept
    at = [0.0, *(each.value for each in found.doses)]
    lines = {
        f"{concept} neurons": (COLORS[0], [0.0, *(each.effect.value for each in found.doses)]),
        f"{words.ANTONYMS[concept]} neurons": (COLORS[1], [0.0, *(each.opposite.value for each in found.doses)]),
    }
    low, high = ([0.0, *(each.band[i] for each in found.doses)] for i in (0, 1))
    seen = np.array([*low, *high, found.word.value, *(y for _, ys in lines.values() for y in ys)])
    bottom, top = np.floor(seen.min()) - 0.2, np.ceil(seen.max()) + 0.2

    def x(value: float) -> float:
        return _LEFT + value / at[-1] * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (top - value) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    def points(xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys, strict=True))

    parts = [f'<polygon points="{points([*at, *at[::-1]], [*high, *low[::-1]])}" fill="{_BAND}" fill-opacity=".35"/>']
    for tick in np.arange(2 * np.ceil(bottom / 2), top, 2).tolist():
        parts.append(_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), _INK, width=1.2 if tick == 0 else 0.3))
        parts.append(_text(_LEFT - 8, y(tick) + 4, f"{tick:+.0f}" if tick else "0", anchor="end"))
    parts += [_text(x(value), _HEIGHT - _BOTTOM + 18, f"{value:g}" if value else "off") for value in at]
    word = y(found.word.value)
    parts.append(_line(_LEFT, word, _WIDTH - _RIGHT, word, COLORS[2], dash="2 4", width=1.5))
    if found.damage_from is not None:
        edge = x(found.damage_from)
        parts.append(_line(edge, _TOP, edge, _HEIGHT - _BOTTOM, COLORS[3], dash="6 4", width=1.5))
        parts.append(_text(edge + 6, _HEIGHT - _BOTTOM - 6, "damage from here", color=COLORS[3], anchor="start"))
    for color, ys in lines.values():
        parts.append(f'<polyline points="{points(at, ys)}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        parts += [
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5" fill="{color}"/>' for a, b in zip(at, ys, strict=True)
        ]
    legend = [(color, name) for name, (color, _) in lines.items()]
    legend += [(COLORS[2], words.with_word(found.instruction, concept)), (_BAND, f"{found.options.sets} random sets")]
    for i, (color, name) in enumerate(legend):
        left = _LEFT + i * (_WIDTH - _LEFT) / len(legend)
        parts.append(f'<rect x="{left:.0f}" y="10" width="12" height="12" rx="2" fill="{color}"/>')
        parts.append(_text(left + 18, 20.0, name, anchor="start"))
    metric = f"change of {TARGETS[concept].metric}, mm a step, told to {found.instruction}"
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, f"strength → {metric}"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" width="{_WIDTH:g}"'
        f' height="{_HEIGHT:g}" font-family="system-ui, sans-serif" font-size="13">\n' + "\n".join(parts) + "\n</svg>\n"
    )
    with atomic_path(path) as partial:
        partial.write_text(svg, encoding="utf-8")


def _line(x1: float, y1: float, x2: float, y2: float, color: str, *, width: float, dash: str = "none") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"'
        f' stroke-dasharray="{dash}"/>'
    )


def _text(x: float, y: float, text: str, *, color: str = _INK, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}">{escape(text)}</text>'
