"""What the charts of a report show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from services.trainer.report import formats
from services.trainer.report.charts import Chart, Series
from services.trainer.report.contents import EmbeddingSize, Epoch

_WHOLE_PERCENT = partial(formats.percent, digits=0)


def epoch_charts(epochs: Sequence[Epoch]) -> list[Chart]:
    """Loss, validation recall@1 and learning rates; those that were not recorded are left out.

    The epochs of all stages follow one another, counted from 1.
    """
    if not epochs:
        return []
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.rates))[:4]
    best = best_epoch(epochs)
    recalls = [epoch.recall for epoch in epochs]
    mark = None
    if best is not None and (recall := recalls[best]) is not None:
        mark = (best + 1.0, recall, f"best: {formats.percent(recall)}")
    loss = [
        _series("training", epochs, [epoch.loss for epoch in epochs], formats.significant),
        _series("validation", epochs, [epoch.validation_loss for epoch in epochs], formats.significant),
    ]
    rates = [_series(name, epochs, [epoch.rates.get(name) for epoch in epochs], formats.significant) for name in names]
    dividers = [
        (number + 1.5, after.stage)
        for number, (before, after) in enumerate(pairwise(epochs))
        if before.stage != after.stage
    ]
    chart = partial(Chart, x_title="epoch", dividers=dividers, x_ticks=_whole_ticks(len(epochs)))
    charts = [
        chart("Loss", series=_told(loss), y_format=formats.significant),
        chart(
            "Recall@1, validation photographs",
            series=_told([_series("recall@1", epochs, recalls, formats.percent)]),
            y_format=_WHOLE_PERCENT,
            mark=mark,
        ),
        chart("Learning rate", series=_told(rates), y_format=formats.significant, log_y=True),
    ]
    return [chart for chart in charts if chart.series]


def best_epoch(epochs: Sequence[Epoch]) -> int | None:
    """Place of the epoch whose weights were kept."""
    return max((place for place, epoch in enumerate(epochs) if epoch.best), default=None)


def size_chart(sizes: Sequence[EmbeddingSize]) -> Chart | None:
    """Recall against the bytes of a vector, a line for each way to store one; None when there is nothing to compare."""
    if len(sizes) < 2:
        return None
    series = []
    for storage in list(dict.fromkeys(size.storage for size in sizes))[:4]:
        own = sorted((size for size in sizes if size.storage == storage), key=lambda size: size.vector_bytes)
        labels = [f"{storage}, D {size.dimension}, {formats.percent(size.recall)}" for size in own]
        series.append(Series(storage, [(float(size.vector_bytes), size.recall) for size in own], labels))
    least, most = (pick(size.vector_bytes for size in sizes) for pick in (min, max))
    powers = range(math.floor(math.log2(max(1, least))), math.ceil(math.log2(max(1, most))) + 1)
    ticks = [2.0**power for power in powers if least <= 2**power <= most]
    return Chart(
        "Recall@1 against bytes a vector",
        "bytes a vector",
        series,
        y_format=_WHOLE_PERCENT,
        log_x=True,
        x_ticks=ticks[:: math.ceil(len(ticks) / 7)] if ticks else (),
    )


def _series(name: str, epochs: Sequence[Epoch], values: Sequence[float | None], form: formats.Format) -> Series:
    points = [(number, math.nan if value is None else value) for number, value in enumerate(values, 1)]
    labels = [
        f"{name}, {epoch.stage} epoch {epoch.number}: {form(value)}"
        for epoch, value in zip(epochs, values, strict=True)
    ]
    return Series(name, points, labels)


def _told(series: Sequence[Series]) -> list[Series]:
    """Those with a value to draw."""
    return [line for line in series if any(math.isfinite(y) for _, y in line.points)]


def _whole_ticks(last: int) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if last <= 8 * step or step == 1000)
    return [float(number) for number in range(step if step > 1 else 1, last + 1, step)]
