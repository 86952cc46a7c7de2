"""The picture of a schedule before it is trained: learning rate, margin and scale by step."""

from collections.abc import Sequence

import numpy as np

from facelib.figure_style import begin, finish, label, styles

_ROW_HEIGHT = 1.7  # inches
Curve = tuple[np.ndarray, np.ndarray]


def plot_schedule(curves: dict[str, Curve], stages: Sequence[tuple[int, str]], theme: str = "light") -> bytes:
    """Draws the curves below one another, as PNG bytes. A curve without any number is left out.

    Args:
        curves: {name: (steps, values)}; NaN for no value.
        stages: (first step, name) of each stage; where there are several, bands show them.
        theme: 'light' or 'dark'.
    """
    shown = {name: curve for name, curve in curves.items() if np.isfinite(curve[1]).any()}
    figure, axes, colours = begin(theme, _ROW_HEIGHT * len(shown), len(shown))
    style = next(iter(styles(colours)))
    last = max(steps[-1] for steps, _ in shown.values())
    for ax, (name, (steps, values)) in zip(axes, shown.items(), strict=True):
        ax.plot(steps, values, color=style.color, linewidth=1.6)
        ax.set_ylim(bottom=0, top=1.08 * np.nanmax(values) or 1)
        label(ax, colours, "step" if ax is axes[-1] else None, name)
    ends = [first for first, _ in stages[1:]] + [last]
    for number, ((first, name), end) in enumerate(zip(stages, ends, strict=True)):
        for ax in axes if number % 2 else ():
            ax.axvspan(first, end, color=colours.grid, alpha=0.45, linewidth=0)
        axes[0].text((first + end) / 2, 1.02, name, transform=axes[0].get_xaxis_transform(), ha="center", va="bottom",
                     fontsize=7.5, color=colours.text)  # fmt: skip
    return finish(figure)
