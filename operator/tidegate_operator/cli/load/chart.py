"""Line charts as SVG text. Pure: numbers in, markup out; nothing from outside is loaded."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 40
COLORS = ("var(--a)", "var(--b)", "var(--c)")

Points = Sequence[tuple[float, float | None]]


class Series(NamedTuple):
    """A line: points without a value leave a gap."""

    name: str
    points: Points


def lines(title: str, series: Sequence[Series], *, x: str, y: str) -> str:
    """A chart with its title, axes and legend; `x` and `y` name what the axes show."""
    known = [(px, py) for one in series for px, py in one.points if py is not None]
    top = nice(max((py for _, py in known), default=0.0))
    end = nice(max((px for px, _ in known), default=0.0))
    drawn = [_grid(end, top)]
    for number, one in enumerate(series):
        drawn.append(_path(one, COLORS[number % len(COLORS)], end, top))
    legend = "".join(
        f'<span><i style="background:{COLORS[number % len(COLORS)]}"></i>{escape(one.name)}</span>'
        for number, one in enumerate(series)
    )
    label = f'<text x="{LEFT}" y="{HEIGHT - 4}" class="axis">{escape(x)}</text>'
    side = f'<text x="4" y="{TOP - 4}" class="axis">{escape(y)}</text>'
    empty = "" if known else f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}">no values</text>'
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(drawn)}{label}{side}{empty}</svg>"
        f'<p class="legend">{legend}</p></figure>'
    )


def nice(value: float) -> float:
    """The end of an axis that holds `value`: 1, 2 or 5 times a power of ten."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999999))


def number(value: float) -> str:
    """A tick's number, short."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _grid(end: float, top: float) -> str:
    drawn = []
    for step in range(5):
        y, x = _y(top * step / 4, top), _x(end * step / 4, end)
        drawn.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="grid"/>')
        drawn.append(
            f'<text x="{LEFT - 6}" y="{y + 4}" class="tick y">{number(top * step / 4)}</text>'
        )
        drawn.append(
            f'<text x="{x}" y="{HEIGHT - 22}" class="tick x">{number(end * step / 4)}</text>'
        )
    return "".join(drawn)


def _path(one: Series, color: str, end: float, top: float) -> str:
    words, pen, dots = [], "M", []
    for px, py in one.points:
        if py is None:
            pen = "M"
            continue
        words.append(f"{pen}{_x(px, end)},{_y(py, top)}")
        pen = "L"
        dots.append(f"{_x(px, end)},{_y(py, top)}")
    if len(dots) == 1:  # a line of one point would not be seen
        x, _, y = dots[0].partition(",")
        return f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>'
    return f'<path d="{" ".join(words)}" fill="none" stroke="{color}" stroke-width="2"/>'


def _x(value: float, end: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * value / end, 1)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(value, top) / top, 1)
