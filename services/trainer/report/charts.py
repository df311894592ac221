"""Line charts as inline SVG. Colours come from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

# at this size a unit is about a CSS pixel, in a column of a desktop and on a phone alike
WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 26, 38
TICKS = 5
# a logarithmic axis goes at most so far below its largest value: a rate that decays towards 0 would have no end
LOG_SPAN = 1e6

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """A line; points whose y is not finite, or not above 0 on a logarithmic axis, are gaps in it.

    Args:
        points: (x, y), x ascending.
        labels: what hovering over each point says; empty: its values.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """Args:
    series: at most four, in the order of the legend.
    dividers: (x, text) of vertical lines, for example where a stage begins.
    mark: (x, y, text) of the point to point out.
    x_ticks: where to label x; empty: round numbers.
    """

    title: str
    x_title: str
    series: Sequence[Series]
    y_format: Format
    x_format: Format = "{:g}".format
    log_x: bool = False
    log_y: bool = False
    dividers: Sequence[tuple[float, str]] = ()
    mark: tuple[float, float, str] | None = None
    x_ticks: Sequence[float] = ()

    def svg(self) -> Markup:
        """The drawing, which tells in words what it shows; empty when no point is finite."""
        drawn = [y for line in self.series for _, y in line.points if self.draws(y)]
        if not drawn:
            return Markup("")
        x_axis = _Axis.of(
            [x for line in self.series for x, _ in line.points], self.log_x, LEFT, WIDTH - RIGHT, tight=True
        )
        y_axis = _Axis.of(drawn, self.log_y, HEIGHT - BOTTOM, TOP)
        parts = [
            Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
                WIDTH, HEIGHT, self.description()
            ),
            *self._grid(x_axis, y_axis),
            *self._dividers(x_axis),
        ]
        for number, line in enumerate(self.series):
            parts += _line(line, number, x_axis, y_axis, self)
        parts += self._mark(x_axis, y_axis)
        return Markup("\n").join([*parts, Markup("</svg>")])

    def draws(self, y: float) -> bool:
        return math.isfinite(y) and (y > 0 or not self.log_y)

    def description(self) -> str:
        """For those who can't see it: where each line begins and ends."""
        told = []
        for line in self.series:
            values = [y for _, y in line.points if self.draws(y)]
            if values:
                told.append(f"{line.name} from {self.y_format(values[0])} to {self.y_format(values[-1])}")
        best = f"; {self.mark[2]}" if self.mark else ""
        return f"{self.title}: {', '.join(told)}{best}"

    def _grid(self, x_axis: _Axis, y_axis: _Axis) -> list[Markup]:
        parts = []
        for value in y_axis.ticks():
            y = y_axis.at(value)
            parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
            parts.append(_text(LEFT - 6, y + 4, self.y_format(value), "end"))
        for value in self.x_ticks or x_axis.ticks():
            parts.append(_text(x_axis.at(value), HEIGHT - BOTTOM + 16, self.x_format(value), "middle"))
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, self.x_title, "middle"))
        return parts

    def _dividers(self, x_axis: _Axis) -> list[Markup]:
        parts = []
        for value, text in self.dividers:
            x = x_axis.at(value)
            parts.append(Markup('<path class="divider" d="M{:.1f} {}V{}"/>').format(x, TOP, HEIGHT - BOTTOM))
            parts.append(_text(x + 4, TOP - 6, text, "start"))
        return parts

    def _mark(self, x_axis: _Axis, y_axis: _Axis) -> list[Markup]:
        if self.mark is None or not self.draws(self.mark[1]):
            return []
        x, y = x_axis.at(self.mark[0]), y_axis.at(self.mark[1])
        return [
            Markup('<path class="divider" d="M{:.1f} {:.1f}V{}"/>').format(x, y + 6, HEIGHT - BOTTOM),
            Markup('<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="6"/>').format(x, y),
            _text(min(max(x, LEFT + 60), WIDTH - RIGHT - 60), max(y - 12, 12), self.mark[2], "middle", "mark-text"),
        ]


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values low..high to places start..end."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], log: bool, start: float, end: float, tight: bool = False) -> _Axis:
        low, high = min(values), max(values)
        if log:
            positive = [value for value in values if value > 0] or [1.0]
            high = max(positive)
            low = max(min(positive), high / LOG_SPAN)
            if not tight:
                low, high = 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
            if low == high:
                low, high = low / 2, high * 2
            return cls(low, high, start, end, log)
        if low == high:
            margin = abs(low) * 0.1 or 0.5
            low, high = low - margin, high + margin
        elif not tight:
            # whole ticks, so that the curve never touches the frame's edge without a label there
            step = _step(low, high)
            low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        return cls(low, high, start, end, log)

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers] or [self.low, self.high]
        step = _step(self.low, self.high)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _step(low: float, high: float) -> float:
    """1, 2 or 5 times a power of ten, so that about TICKS steps fill the span."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _line(line: Series, number: int, x_axis: _Axis, y_axis: _Axis, chart: Chart) -> list[Markup]:
    places = [(x_axis.at(x), y_axis.at(y)) if chart.draws(y) else None for x, y in line.points]
    path = []
    for before, place in pairwise([None, *places]):
        if place is not None:
            path.append(f"{'M' if before is None else 'L'}{place[0]:.1f} {place[1]:.1f}")
    parts = [Markup('<path class="line s{}" d="{}"/>').format(number, "".join(path))]
    radius = 3 if len(places) <= 40 else 1.5
    for index, place in enumerate(places):
        if place is None:
            continue
        x, y = line.points[index]
        label = line.labels[index] if line.labels else f"{line.name}, {chart.x_format(x)}: {chart.y_format(y)}"
        parts.append(
            Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
                number, *place, radius, label
            )
        )
    return parts


def _text(x: float, y: float, text: str, anchor: str, kind: str = "label") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)
