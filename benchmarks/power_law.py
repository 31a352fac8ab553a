"""The power law of a learning curve, accuracy = a - b n^-c: fitted where it makes sense, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from mien.evaluation.style import LIGHT, TEXT_SIZE, Theme, blank_figure, legend_above, style_axes

EXPONENTS = np.geomspace(0.02, 2.0, 400)
"""The exponents c that are tried; the first and the last mean that no power law is near."""

RESAMPLES = 1000


def fit(counts: np.ndarray, right: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """The power law a - b n^-c through the accuracies, and what it says of twice the images.

    Args:
        counts: float64 [K], training images, rising.
        right: bool [K, N], which pictures the model of each count read right.
        seed: of the bootstrap.

    Returns:
        ``a, b, c, left_over`` (root mean square), and ``twice``: ``images``, ``accuracy``, ``gain`` over the last point
        as the law has it, and ``gain_ci95``. Where no law makes sense, ``reason`` alone.
    """
    accuracy, number = right.mean(axis=1), right.shape[1]
    if len(counts) < 4:
        return {"reason": f"{len(counts)} points, and a law of three numbers needs four"}
    if (np.diff(accuracy) <= 0).any():
        return {"reason": "the accuracy does not rise with every share"}
    a, b, c, errors = (values[0] for values in _laws(counts, accuracy[None]))
    chance = float(np.sqrt(accuracy * (1 - accuracy) / number).mean())
    if c in EXPONENTS[[0, -1]] or a > 1:
        return {"reason": "no power law with an end at or below 100 % is near these points"}
    if errors > chance:
        return {"reason": f"the best law misses the points by {errors:.2%}, more than chance ({chance:.2%})"}
    draws = np.random.default_rng(seed).integers(number, size=(RESAMPLES, number))
    resampled = np.stack([right[:, rows].mean(axis=1) for rows in draws])
    last = float(counts[-1])
    gains = [_gain(slope, power, last) for _, slope, power, _ in zip(*_laws(counts, resampled), strict=True)]
    twice = {
        "images": round(2 * last),
        "accuracy": float(a - b * (2 * last) ** -c),
        "gain": _gain(b, c, last),
        "gain_ci95": np.percentile(gains, [2.5, 97.5]).tolist(),
    }
    return {"a": float(a), "b": float(b), "c": float(c), "left_over": float(errors), "twice": twice}


def _laws(counts: np.ndarray, accuracies: np.ndarray) -> tuple[np.ndarray, ...]:
    """a, b, c and root mean square error, each float64 [R], of least squares for accuracies [R, K]: linear, c given."""
    x = counts[None] ** -EXPONENTS[:, None]
    spread = x - x.mean(axis=1, keepdims=True)
    b = -(accuracies @ spread.T) / np.square(spread).sum(axis=1)
    a = accuracies.mean(axis=1, keepdims=True) + b * x.mean(axis=1)
    errors = np.square(accuracies[:, None] - a[..., None] + b[..., None] * x).mean(axis=2)
    best, rows = errors.argmin(axis=1), np.arange(len(accuracies))
    return a[rows, best], b[rows, best], EXPONENTS[best], np.sqrt(errors[rows, best])


def _gain(b: float, c: float, last: float) -> float:
    """What a law says that twice the images bring."""
    return float(b * (last**-c - (2 * last) ** -c))


def figure_of(points: Sequence[dict[str, Any]], law: dict[str, Any], *, theme: Theme = LIGHT) -> Figure:
    """Accuracy with its interval over training images, and the law up to twice as many, where there is one."""
    counts = np.array([point["images"] for point in points], float)
    accuracy = np.array([point["clean"] for point in points])
    ends = np.array([point["clean_ci95"] for point in points])
    figure = blank_figure((6.6, 4.6), theme)
    axes = style_axes(figure.add_subplot(), theme)
    axes.set_xscale("log")
    ticks = list(counts)
    if "twice" in law:
        twice = law["twice"]
        ticks.append(twice["images"])
        line = np.geomspace(counts[0], twice["images"], 100)
        line_style: dict[str, Any] = {"color": theme.second, "linewidth": 2, "linestyle": (0, (4, 3))}
        axes.plot(line, law["a"] - law["b"] * line ** -law["c"], label="power law", **line_style)
        axes.plot(twice["images"], twice["accuracy"], "D", color=theme.paper, markeredgecolor=theme.second,
                  markersize=8, markeredgewidth=2)  # fmt: skip
        low, high = (100 * end for end in twice["gain_ci95"])
        title = f"twice the images: {100 * twice['gain']:+.1f} points ({low:+.1f} to {high:+.1f})"
        axes.set_title(title, loc="left", color=theme.ink, fontsize=TEXT_SIZE)
    bars = np.abs(ends.T - accuracy)
    axes.errorbar(counts, accuracy, bars, fmt="o-", color=theme.first, linewidth=2, markersize=7, capsize=4,
                  label="validation without twins, 95 %")  # fmt: skip
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel("training images")
    axes.set_ylabel("accuracy")
    axes.grid(color=theme.grid)
    legend_above(figure, axes, theme, ("validation without twins, 95 %", "power law"))
    return figure


def in_words(points: Sequence[dict[str, Any]], law: dict[str, Any]) -> str:
    """What the last step to more images brought, and the law, in a line each."""
    lines = []
    if len(points) > 1:
        before, last = points[-2:]
        gain = 100 * (last["clean"] - before["clean"])
        lines.append(f"from {before['images']:,} to {last['images']:,} images: {gain:+.1f} points on the clean part")
    if "twice" not in law:
        return "\n".join([*lines, f"no power law is fitted: {law['reason']}"])
    twice = law["twice"]
    low, high = (100 * end for end in twice["gain_ci95"])
    lines.append(
        f"accuracy = {law['a']:.4f} - {law['b']:.3f} n^-{law['c']:.3f}, off by {law['left_over']:.2%}; "
        f"twice the images ({twice['images']:,}) would bring {100 * twice['gain']:+.1f} points "
        f"(95 % over pictures: {low:+.1f} to {high:+.1f})"
    )
    return "\n".join(lines)
