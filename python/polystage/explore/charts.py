"""Curves of a sweep as an SVG picture, light and dark, that needs nothing else."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from polystage.explore.axes import AXES, Axis
from polystage.explore.points import Figures, Outcome

_WIDTH, _HEIGHT = 300.0, 190.0
"""Size of a plot, without its texts."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 18.0, 46.0, 58.0
_TITLE = 64.0

_STYLE = """
svg { --ground: #ffffff; --ink: #1d2129; --muted: #5d6673; --line: #dfe1e2; --bad: #b3423b;
  --c0: #3b6ea8; --c1: #d68a3c; --c2: #5a9a68; --c3: #b8574f; --c4: #7d68a6; --c5: #3d97a0;
  font: 12px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ground: #1c2027; --ink: #e4e7ec; --muted: #a2abb8;
  --line: #333a45; --bad: #ea8f87; --c0: #6f9fd4; --c1: #dda064; --c2: #7dbb89; --c3: #d77f77;
  --c4: #a594cf; --c5: #66b9c1; } }
.ground { fill: var(--ground); } text { fill: var(--ink); }
.muted { fill: var(--muted); } .title { font-size: 16px; font-weight: 650; }
.name { font-weight: 600; } .grid { stroke: var(--line); stroke-width: 1; }
.curve { fill: none; stroke-width: 2; } .bound { fill: none; stroke-width: 1.5;
  stroke-dasharray: 5 4; } .failed { stroke: var(--bad); stroke-width: 1.5; fill: none; }
.own { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 3; }
"""


@dataclass(frozen=True)
class Plot:
    """A figure to draw, and the bounds to draw with it."""

    title: str
    value: Callable[[Figures], float]
    text: Callable[[float], str]
    is_logarithmic: bool = False
    bounds: tuple[tuple[str, Callable[[Figures], float]], ...] = ()


def count_text(value: float) -> str:
    """Return a positive number in at most four characters and a unit of thousands.

    >>> count_text(1769.4), count_text(20.13), count_text(0.5)
    ('1.77k', '20.1', '0.5')
    """
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


PLOTS = (
    Plot(
        "inferences/s",
        lambda f: f.inferences_per_s,
        count_text,
        is_logarithmic=True,
        bounds=(
            ("arrays at peak", lambda f: f.compute_bound_per_s),
            ("DRAM, once each", lambda f: f.dram_bound_per_s),
            ("busiest engine", lambda f: f.inferences_per_s / max(f.busy.values())),
        ),
    ),
    Plot("inferences/J", lambda f: f.inferences_per_j, count_text),
    Plot("utilisation of the arrays", lambda f: f.utilization, lambda v: f"{100 * v:.3g} %"),
)

Curve = tuple[str, list[Outcome]]
"""The name of a curve and its points."""


def curves_by_axis(outcomes: Sequence[Outcome]) -> dict[str, list[Curve]]:
    """Return the curves over every axis; one for each combination of the sizes of the others."""
    found: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        axis, values = outcome.point.axis, outcome.point.values
        others = (f"{n} {AXES[n].text(v)}" for n, v in values.items() if n != axis)
        found.setdefault(axis, {}).setdefault(", ".join(others), []).append(outcome)
    return {axis: list(curves.items()) for axis, curves in found.items()}


def picture(title: str, outcomes: Sequence[Outcome], own: Mapping[str, float]) -> str:
    """Return an SVG with a row for every axis and a column for every figure.

    `own` is where the target itself stands on an axis.
    """
    rows = curves_by_axis(outcomes)
    width = len(PLOTS) * (_LEFT + _WIDTH + _RIGHT)
    row_height = _TOP + _HEIGHT + _BOTTOM
    height = _TITLE + len(rows) * row_height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="ground" width="{width:g}" height="{height:g}"/>',
        f'<text class="title" x="{_LEFT / 2:g}" y="26">{escape(title)}</text>',
        _legend(any(outcome.figures is None for outcome in outcomes)),
    ]
    for row, (axis, curves) in enumerate(rows.items()):
        for column, plot in enumerate(PLOTS):
            x, y = column * (_LEFT + _WIDTH + _RIGHT) + _LEFT, _TITLE + row * row_height + _TOP
            panel = _Panel(AXES[axis], plot, curves, own.get(axis))
            parts.append(f'<g transform="translate({x:g} {y:g})">{panel.draw()}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(has_failures: bool) -> str:
    entries = [
        ("own", "the target as it is", ""),
        ("bound", "arrays always at their peak", _STROKES[0]),
        ("bound", "each input, weight and output moved once", _STROKES[1]),
        ("bound", "the busiest engine never waits", _STROKES[2]),
    ]
    if has_failures:
        entries.append(("failed", "cannot be compiled", ""))
    parts: list[str] = []
    x = _LEFT / 2
    for kind, text, style in entries:
        line = _cross(x + 12, 44) if kind == "failed" else f"M{x:g} 44h24"
        parts.append(f'<path class="{kind}" d="{line}" style="{style}"/>')
        parts.append(f'<text class="muted" x="{x + 32:g}" y="48">{text}</text>')
        x += 54 + 6.3 * len(text)
    return "".join(parts)


_STROKES = ("stroke:var(--c2)", "stroke:var(--c1)", "stroke:var(--c4)")


class _Panel:
    """One figure over one axis."""

    def __init__(self, axis: Axis, plot: Plot, curves: Sequence[Curve], own: float | None) -> None:
        self.axis, self.plot, self.curves, self.own = axis, plot, curves, own
        points = [o for _, curve in curves for o in curve]
        self.ticks = {
            axis.number(p): axis.text(p) for o in points for p in [o.point.values[axis.name]]
        }
        numbers = [math.log(n) for n in self.ticks]
        pad = max(0.06 * (max(numbers) - min(numbers)), 0.1)
        self.x_range = min(numbers) - pad, max(numbers) + pad
        done = [o.figures for o in points if o.figures]
        values = [plot.value(f) for f in done] or [1.0]
        if len(curves) == 1:
            bounds = [b(f) for _, b in plot.bounds for f in done]
            values += [b for b in bounds if math.isfinite(b)]
        self.low, self.high = (
            (min(values) / 1.3, max(values) * 1.3)
            if plot.is_logarithmic
            else (
                0.0,
                max(values) * 1.12 or 1.0,
            )
        )

    def draw(self) -> str:
        parts = [
            f'<text class="name" x="0" y="-12">{escape(self.plot.title)}</text>',
            self._grid(),
            self._x_axis(),
        ]
        if len(self.curves) == 1:
            parts += [
                self._line(bound, f'class="bound" style="{_STROKES[i]}"')
                for i, (_, bound) in enumerate(self.plot.bounds)
            ]
        for i, (name, curve) in enumerate(self.curves):
            colour = f"var(--c{i % 6})"
            parts.append(self._line(self.plot.value, f'class="curve" stroke="{colour}"', curve))
            parts += [self._point(o, colour, name) for o in curve]
        if len(self.curves) > 1:
            parts.append(self._names())
        return "".join(parts)

    def _names(self) -> str:
        step = 14
        return "".join(
            f'<text x="8" y="{14 + i * step}" style="fill:var(--c{i % 6})">{escape(name)}</text>'
            for i, (name, _) in enumerate(self.curves)
        )

    def _x(self, number: float) -> float:
        low, high = self.x_range
        return (math.log(number) - low) / (high - low) * _WIDTH

    def _y(self, value: float) -> float:
        if self.plot.is_logarithmic:
            low, high = math.log(self.low), math.log(self.high)
            return _HEIGHT * (1 - (math.log(value) - low) / (high - low))
        return _HEIGHT * (1 - (value - self.low) / (self.high - self.low))

    def _grid(self) -> str:
        values = powers(self.low, self.high) if self.plot.is_logarithmic else steps(self.high)
        return "".join(
            f'<path class="grid" d="M0 {self._y(v):.1f}H{_WIDTH:g}"/><text class="muted" x="-8" '
            f'y="{self._y(v) + 4:.1f}" text-anchor="end">{self.plot.text(v)}</text>'
            for v in values
        )

    def _x_axis(self) -> str:
        parts = [f'<path class="grid" d="M0 {_HEIGHT:g}H{_WIDTH:g}"/>']
        if self.own is not None and self.own in self.ticks:
            parts.append(f'<path class="own" d="M{self._x(self.own):.1f} 0V{_HEIGHT:g}"/>')
        for number, text in self.ticks.items():
            parts.append(
                f'<text class="muted" x="{self._x(number):.1f}" y="{_HEIGHT + 18:g}" '
                f'text-anchor="middle">{escape(text)}</text>'
            )
        title = escape(self.axis.title)
        parts.append(
            f'<text x="{_WIDTH / 2:g}" y="{_HEIGHT + 38:g}" text-anchor="middle">{title}</text>'
        )
        return "".join(parts)

    def _line(
        self, value: Callable[[Figures], float], style: str, curve: Sequence[Outcome] | None = None
    ) -> str:
        """Draw a line through the points that could be compiled, with gaps at the others."""
        path, move = "", "M"
        for outcome in self.curves[0][1] if curve is None else curve:
            if outcome.figures is None or not math.isfinite(value(outcome.figures)):
                move = "M"
                continue
            x = self._x(self.axis.number(outcome.point.values[self.axis.name]))
            path += f"{move}{x:.1f} {self._y(value(outcome.figures)):.1f}"
            move = "L"
        return f'<path {style} d="{path}"/>' if path else ""

    def _point(self, outcome: Outcome, colour: str, name: str) -> str:
        x = self._x(self.axis.number(outcome.point.values[self.axis.name]))
        if outcome.figures is None:
            text = f"{outcome.point.text()}: {outcome.reason}"
            return (
                f'<path class="failed" d="{_cross(x, _HEIGHT - 8)}">'
                f"<title>{escape(text)}</title></path>"
            )
        value = self.plot.value(outcome.figures)
        text = f"{outcome.point.text()}: {self.plot.text(value)} ({outcome.figures.limit})"
        return (
            f'<circle cx="{x:.1f}" cy="{self._y(value):.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(text)}</title></circle>"
        )


def _cross(x: float, y: float) -> str:
    return f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"


def powers(low: float, high: float) -> list[float]:
    """Return round numbers within a range, for a logarithmic axis.

    >>> powers(300, 6000)
    [500.0, 1000.0, 2000.0, 5000.0]
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = math.log10(high / low) > 2.5
    digits = (1.0,) if wide else (1.0, 2.0, 5.0)
    found = [d * 10.0**e for e in exponents for d in digits]
    return [value for value in found if low <= value <= high]


def steps(high: float) -> list[float]:
    """Return about four round numbers from 0 up to `high`.

    >>> steps(23.0)
    [0.0, 5.0, 10.0, 15.0, 20.0]
    """
    unit = 10.0 ** math.floor(math.log10(high))
    step = next(s * unit for s in (0.1, 0.2, 0.5, 1.0, 2.0) if high / (s * unit) < 6)
    return [i * step for i in range(int(high / step) + 1)]
