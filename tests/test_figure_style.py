"""The look of the figures: lines that differ, themes, and legends below the plot."""

import cv2
import numpy as np
import pytest

from facelib.figure_style import DASHES, MARKERS, begin, finish, label, legend_below, styles


def test_forty_lines_all_look_different():
    _, _, colours = begin("light")

    looks = {(style.color, style.dashes, style.marker) for _, style in zip(range(40), styles(colours), strict=False)}

    assert len(looks) == 40 and len(DASHES) != len(MARKERS)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_ground_of_the_picture_is_that_of_the_theme(theme):
    figure, _, colours = begin(theme)

    pixels = cv2.imdecode(np.frombuffer(finish(figure), np.uint8), cv2.IMREAD_COLOR_RGB)

    assert tuple(pixels[0, 0]) == tuple(bytes.fromhex(colours.ground[1:]))


def test_a_legend_makes_the_figure_higher_and_long_labels_more_so():
    heights = []
    for names in ([], ["a", "b"], ["a label of more than twenty-six letters", "b"]):
        figure, (ax,), colours = begin("light")
        for name in names:
            ax.plot([0, 1], label=name)
        legend_below(figure, ax, colours)
        heights.append(figure.get_figheight())

    assert heights[0] < heights[1] < heights[2]


def test_rows_share_their_horizontal_axis():
    _, axes, colours = begin("light", rows=3)
    label(axes[-1], colours, "step", "loss")

    axes[0].set_xlim(2, 5)

    assert len(axes) == 3 and axes[2].get_xlim() == (2, 5)
    assert (axes[2].get_xlabel(), axes[2].get_ylabel(), axes[0].get_xlabel()) == ("step", "loss", "")


@pytest.mark.parametrize("name", ["toy$_$.bin", "$\\frac$", "a$b$c"])
def test_a_name_is_never_a_formula(name):
    figure, (ax,), colours = begin("light")
    ax.plot([0, 1], label=name)
    ax.set_title(name)
    ax.set_yscale("log")
    label(ax, colours, name, name)
    legend_below(figure, ax, colours)

    assert finish(figure).startswith(b"\x89PNG")
