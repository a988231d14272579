"""Pictures of slices: what is on the axes, and that files come out."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from meta_train import surface_plots
from meta_train.plots import pyplot

OFFSETS = np.linspace(-1, 1, 5)
HEIGHTS = OFFSETS[:, None] + 10 * OFFSETS[None, :]  # rows: the first direction


@pytest.fixture
def ax():
    plt = pyplot()
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_a_line_has_a_curve_for_each_label_over_the_same_range(ax):
    curves = {"raw": OFFSETS**2, "smoothed": np.array([1.0, 0.1, 1.0])}
    surface_plots.draw_lines(ax, OFFSETS, curves)
    assert [line.get_label() for line in ax.lines] == ["raw", "smoothed"]
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [-1, 0, 1])


def test_the_first_direction_of_a_plane_points_to_the_right(ax):
    surface_plots.draw_plane(ax, OFFSETS, HEIGHTS, labels=("rate", "decay"))
    shown = ax.collections[0].get_array().reshape(5, 5)  # rows upwards
    np.testing.assert_allclose(shown[0], OFFSETS - 10)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rate", "decay")


def test_heights_beyond_the_limits_have_the_colour_of_the_limit(ax):
    surface_plots.draw_plane(ax, OFFSETS, 1 + HEIGHTS**2, limits=(2.0, 50.0), log=True)
    shown = ax.collections[0].get_array()
    assert shown.min() == 2 and shown.max() == 50


def test_ways_of_one_label_share_a_colour_and_one_entry_in_the_legend(ax):
    runs = np.arange(12.0).reshape(2, 3, 2)
    surface_plots.draw_ways(ax, {"PES": runs, "ES": runs}, {"ES": "#123456"})
    lines, colours = ax.lines, {line.get_color() for line in ax.lines}
    assert len(lines) == 8 and len(colours) == 2 and "#123456" in colours
    assert len(ax.get_legend_handles_labels()[1]) == 2
    np.testing.assert_array_equal(lines[1].get_xydata(), runs[0, -1:])


def test_files_have_a_panel_for_each_title(tmp_path):
    panels = {"10 steps": {"raw": OFFSETS}, "20 steps": {"raw": 2 * OFFSETS}}
    lines = surface_plots.plot_lines(panels, OFFSETS, tmp_path / "lines.png")
    planes = {"raw": HEIGHTS, "smoothed": HEIGHTS}
    planes = surface_plots.plot_planes(planes, OFFSETS, tmp_path / "planes.png")
    for path in (lines, planes):
        height, width, _ = pyplot().imread(path).shape
        assert width > 1.5 * height
