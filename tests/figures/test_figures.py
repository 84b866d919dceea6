"""Figures carry words, and their colours can be told apart."""

import base64
import io
import itertools
import math

import numpy as np
import pytest
import torch
from matplotlib import image as mpl_image
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver
from matplotlib.text import Text
from PIL import Image

from distar_core import ring
from distar_core.figures import charts, plane
from distar_core.figures.picture import (
    BLUE,
    CYCLE,
    GUIDE,
    ORANGE,
    STYLES,
    Picture,
    SavedPicture,
    Style,
    image_grid,
)
from distar_core.figures.runs import POINTS as MOST
from distar_core.figures.runs import picture_sheet, run_curves, stretches
from distar_core.toy.ring import REWARDS

ALT = "Eight clumps of dots on a ring, the right one in the shade of the reward."
LEASHES = ("kl-x0", "kl-one", "star", "l2")
POINTS = ring().sample(200, torch.Generator().manual_seed(0))


def pictures(tmp_path):
    """One picture of every kind."""
    reward = REWARDS["mode"]
    yield plane.clouds({"reference": POINTS, "kl-one": POINTS}, ring(), alt=ALT, reward=reward, notes={"kl-one": "x"})
    arrows = (POINTS[:5], torch.ones(5, 2), -torch.ones(5, 2))
    yield plane.pull_picture({"kl-one": arrows}, ring(), alt=ALT, backgrounds={"kl-one": POINTS})
    curve = charts.Curve("kl-one", [0.1, 0.2, 0.3], {"modes": [3.0, float("nan"), 1.0]})
    dots = [charts.Dot("reward-only", 0.3, {"modes": value}) for value in (1.0, 9.0, float("inf"))]
    yield charts.frontier([curve], dots, {"modes": charts.Axis("modes", limits=(0, 8), guides=[8.0])}, alt=ALT)
    yield image_grid(torch.rand(3, 3, 8, 8), ["a", "b", "c"], alt=ALT, columns=2)
    yield picture_sheet({"now": torch.rand(2, 3, 8, 8), "then": torch.rand(2, 3, 8, 8)}, ["a", "b"], alt=ALT)
    log = [{"step": n, "reward": 0.1 * n, "reward_spread": 1.0, "pull_reward": 1.0 + n, "lag": 0.1} for n in range(130)]
    panels = [{"step": n, "reward": 0.1 * n, "gap": {"20": 0.1 + n}, "seconds": {"scores": 1.0}} for n in (0, 50, 100)]
    curves = run_curves(log, panels)
    assert curves is not None
    yield Picture(curves.figure, ALT)
    yield plane.animate({"kl-one": [POINTS, POINTS + 0.1]}, ring(), tmp_path / "a.gif", alt=ALT, captions=["0", "1"])
    style = STYLES["kl-one"]
    yield charts.lines(
        {"a": [charts.Line("a", [0, 1], [1, 2], style=style)]},
        alt=ALT,
        xlabel="x",
        ylabel=charts.Axis("y", log=True),
    )


def test_every_kind_of_picture_opens_and_carries_its_words(tmp_path):
    for picture in pictures(tmp_path):
        pixels = mpl_image.imread(io.BytesIO(picture.png()))
        assert pixels.std() > 0.05, "the picture is not blank"
        assert ALT.encode() in picture.png()
        bundle = picture._repr_mimebundle_()
        assert f'alt="{ALT}"' in bundle["text/html"]
        assert bundle["text/plain"] == ALT
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF89a")


def test_a_saved_picture_is_shown_with_the_words_that_it_carries(tmp_path):
    plane.clouds({"a": POINTS}, ring(), alt=ALT).save(tmp_path / "a.png")
    bundle = SavedPicture(tmp_path / "a.png")._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == (tmp_path / "a.png").read_bytes()
    assert f'alt="{ALT}"' in bundle["text/html"]
    assert bundle["text/plain"] == ALT
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png"):
        SavedPicture(tmp_path / "b.png")
    with pytest.raises(FileNotFoundError):
        SavedPicture(tmp_path / "c.png")


def test_words_are_required_and_escaped():
    with pytest.raises(ValueError, match="too short"):
        plane.clouds({"a": POINTS}, ring(), alt="a plot")
    picture = plane.clouds({"a": POINTS}, ring(), alt='Dots that are called "good" & <better> by the reward.')
    assert (
        'alt="Dots that are called &quot;good&quot; &amp; &lt;better&gt; by' in picture._repr_mimebundle_()["text/html"]
    )


# Viénot, Brettel and Mollon (1999): linear RGB as seen without the long- or the middle-wave cones.
DICHROMATS = {
    "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


def lab_as_seen(color: str, kind: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(DICHROMATS[kind]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ linear / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def smallest_distance(colors: list[str], kind: str) -> float:
    seen = [lab_as_seen(color, kind) for color in colors]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("kind", DICHROMATS)
def test_methods_can_be_told_apart_without_colour_vision(kind):
    leashes = {name: style for name, style in STYLES.items() if name in LEASHES}
    # CIE76; the smallest is 24, between two greys of the protanope's that also differ in marker and line
    assert smallest_distance([style.color for style in STYLES.values()], kind) > 20
    assert len({style.marker for style in STYLES.values()}) == len(STYLES)
    assert len({str(style.line) for style in leashes.values()}) == len(leashes)


@pytest.mark.parametrize("kind", DICHROMATS)
def test_lines_that_are_no_method_have_no_methods_colour(kind):
    plain = [style.color for style in charts.PLAIN]
    leashes = [style.color for name, style in STYLES.items() if name in LEASHES]
    assert smallest_distance(plain, kind) > 20
    assert all(smallest_distance([color, leash], kind) > 20 for color in plain for leash in leashes)
    assert any(style.color in leashes for style in CYCLE), "the control: lines by default do take them"


@pytest.mark.parametrize("kind", DICHROMATS)
def test_pulls_can_be_told_apart_and_from_the_methods_without_colour_vision(kind):
    """The sum is black as the tilted optimum is, and never in one picture with it."""
    pulls = [plane.ARROWS[name].color for name in ("reward", "regularizer", "guidance")]
    leashes = [style.color for name, style in STYLES.items() if name in LEASHES]
    assert smallest_distance([*pulls, "black", *leashes], kind) > 20
    assert len({arrow.width for arrow in plane.ARROWS.values()}) == len(plane.ARROWS)
    old = [ORANGE, BLUE]
    assert smallest_distance([*old, *leashes], kind) == 0, "control"


@pytest.mark.parametrize("kind", DICHROMATS)
def test_control_the_default_cycle_cannot(kind):
    cycle = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"]
    assert smallest_distance(cycle, kind) < 10


@pytest.mark.parametrize("dot", [[0.0, 0.0], [3.3, 0.0], [0.0, -3.3], [3.0, 3.0], [-6.0, 1.0]])
def test_every_arrow_ends_inside_the_window(dot):
    """Also where the sum is the longest of the three, or the dot itself lies beyond the usual window."""
    dots = torch.tensor([dot, [0.0, 0.0]])
    pulls = torch.tensor([[1.0, -2.0], [0.1, 0.0]]), torch.tensor([[2.0, -1.0], [0.0, 0.1]])
    picture = plane.pull_picture({"a": (dots, *pulls), "b": (-dots, *pulls)}, ring(), alt=ALT)
    longest = []
    for axes in picture.figure.axes:
        low, high = axes.get_xlim()
        assert (low, high) == axes.get_ylim()
        for quiver in (artist for artist in axes.collections if isinstance(artist, Quiver)):
            moves = np.stack([quiver.U, quiver.V], 1) / quiver.scale
            heads = quiver.XY + moves
            assert low < heads.min() <= heads.max() < high
            longest.append(np.linalg.norm(moves, axis=1).max())
    assert max(longest) == pytest.approx(1.3)
    if dot == [0.0, 0.0]:
        assert high == pytest.approx(3.4), "a window that holds everything stays as it is"


def legend_of(picture):
    return [text.get_text() for legend in picture.figure.legends for text in legend.get_texts()]


def test_guidance_is_a_third_arrow_in_the_panels_that_have_it():
    dots, one = POINTS[:3], torch.tensor([[1.0, 0.0]]).expand(3, 2)
    picture = plane.pull_picture({"in": (dots, one, one), "out": (dots, one, one, 2 * one)}, ring(), alt=ALT)
    assert legend_of(picture) == ["reward", "regularizer", "guidance", "sum"]
    found = [[q for q in axes.collections if isinstance(q, Quiver)] for axes in picture.figure.axes]
    assert [len(quivers) for quivers in found] == [3, 4]
    np.testing.assert_allclose(found[1][3].U / found[0][2].U, 2)


def test_groups_of_a_cloud_differ_in_colour_and_marker():
    right = POINTS[:, 0] > 0
    picture = plane.clouds({"a": POINTS, "b": POINTS}, ring(), alt=ALT, groups={"right": right, "left": ~right})
    assert legend_of(picture) == ["right", "left"]
    for axes in picture.figure.axes:
        first, second = axes.lines
        assert len(first.get_xdata()) == right.sum()
        assert len(second.get_xdata()) == (~right).sum()
        assert first.get_marker() != second.get_marker()
        assert first.get_color() != second.get_color()


def test_the_animation_rests_on_its_last_frame_and_its_panels_stay_in_place(tmp_path):
    clouds = [POINTS, POINTS + 0.1, POINTS + 0.2]
    plane.animate({"kl-one": clouds}, ring(), tmp_path / "a.gif", alt=ALT, reward=REWARDS["mode"], captions="abc")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 3, "frames that show the same are the same"
        durations = []
        for index in range(film.n_frames):
            film.seek(index)
            durations.append(film.info["duration"])
    assert durations[-1] >= 2000
    assert max(durations[:-1]) <= 125


def test_the_shading_is_named_where_there_is_one():
    arrows = (POINTS[:5], torch.ones(5, 2), -torch.ones(5, 2))
    reward = REWARDS["mode"]
    assert legend_of(plane.clouds({"a": POINTS}, ring(), alt=ALT, reward=reward)) == ["shading: reward"]
    assert legend_of(plane.clouds({"a": POINTS}, ring(), alt=ALT)) == []
    assert legend_of(plane.pull_picture({"a": arrows}, ring(), alt=ALT, reward=reward))[-1] == "shading: reward"


def test_words_beyond_ascii_reach_the_file():
    """What the demo says holds quotation marks and σ²: PNG keeps them in another kind of chunk."""
    alt = "Dots under the reward “mode”, one panel for KL, w = σ²/α²."
    picture = plane.clouds({"a": POINTS}, ring(), alt=alt)
    assert Image.open(io.BytesIO(picture.png())).text["Description"] == alt


def marker_of(value, limits):
    """Where the frontier draws a run with this value, and how the marker is filled."""
    dot = charts.Dot("kl-one", 0.3, {"modes": value})
    picture = charts.frontier([], [dot], {"modes": charts.Axis("modes", limits=limits)}, alt=ALT)
    marker = picture.figure.axes[0].lines[0]
    return float(marker.get_ydata()[0]), marker.get_markerfacecolor()


def test_runs_above_the_axis_are_open_markers_at_its_edge():
    limits = (0.0, 8.0)
    assert marker_of(5.0, limits) == (5.0, STYLES["kl-one"].color)
    assert marker_of(9.0, limits) == marker_of(math.inf, limits) == (8.0, "none")


def test_runs_below_the_axis_are_open_markers_at_its_edge():
    assert marker_of(-1.0, (0.0, 8.0)) == (0.0, "none")


def test_an_infinite_value_without_limits_has_no_place_and_is_left_out():
    with pytest.raises(IndexError):
        marker_of(math.inf, None)
    assert marker_of(5.0, None)[0] == 5.0


def test_paths_are_one_line_a_point_with_named_marks_on_them():
    positions = torch.stack([3 * POINTS[:6], 2 * POINTS[:6], POINTS[:6]])  # [T, N, 2]
    picture = plane.paths({"a": positions, "b": -positions}, ring(), alt=ALT, marks={"early": 1, "the end": 2})
    for axes, sign in zip(picture.figure.axes, (1, -1), strict=True):
        ways, marks = axes.lines[:6], axes.lines[6:]
        assert np.allclose(ways[4].get_xydata(), sign * positions[:, 4])
        assert all(np.allclose(mark.get_xydata(), sign * positions[k]) for mark, k in zip(marks, (1, 2), strict=True))
        assert len({mark.get_marker() for mark in marks}) == 2
    assert legend_of(picture) == ["early", "the end"]
    assert ALT.encode() in picture.png()
    assert legend_of(plane.paths({"a": positions}, ring(), alt=ALT)) == []


def test_bars_stand_beside_the_truth_on_equal_axes():
    picture = charts.bars({"a": [1.0, -2.0], "b": [0.0, 3.0]}, [0.5, -1.0], ["m", "s"], alt=ALT, ylabel="gradient")
    for axes, values in zip(picture.figure.axes, ([1.0, -2.0], [0.0, 3.0]), strict=True):
        assert [bar.get_height() for bar in axes.patches] == values
        (dashes,) = [c for c in axes.collections if len(c.get_segments()) == 2]
        assert [float(segment[0, 1]) for segment in dashes.get_segments()] == [0.5, -1.0]
        assert axes.patches[0].get_hatch(), "not by colour alone"
    assert len({axes.get_ylim() for axes in picture.figure.axes}) == 1
    assert legend_of(picture) == ["this form", "truth"]


def test_a_dot_plot_puts_every_mark_on_the_line_of_its_row():
    kinds = {"known": Style("black", "|", ""), "run": Style(BLUE, "o", "")}
    marks = [
        charts.Mark("b", 2.0, "known"),
        charts.Mark("b", 2.5, "run", 2.4, 2.7),
        charts.Mark("a", math.nan, "known"),
    ]
    picture = charts.dot_plot([("one", marks), ("two", []), ("one", marks)], ["a", "b"], kinds, alt=ALT, columns=2)
    first, second, third, spare = picture.figure.axes
    (known,) = [line for line in first.lines if line.get_marker() == "|"]
    assert known.get_xydata().tolist() == [[2.0, 1.0]]
    (run,) = [line for line in first.lines if line.get_marker() == "o"]
    assert abs(run.get_ydata()[0] - 1) < 0.5
    assert run.get_xdata().tolist() == [2.5]
    (bar,) = [c for c in first.collections if len(c.get_segments())]
    assert bar.get_segments()[0][:, 0].tolist() == [2.4, 2.7]
    assert [label.get_text() for label in third.get_yticklabels()] == ["a", "b"]
    assert {label.get_text() for label in second.get_yticklabels()} == {""}
    assert not spare.get_visible()
    assert first.get_ylim()[0] > first.get_ylim()[1], "the first row is on top"
    assert legend_of(picture) == ["known", "run"]
    guided = charts.dot_plot([("one", marks)], ["a", "b"], kinds, alt=ALT, columns=1, guides=[0.5])
    verticals = [line.get_xdata() for line in guided.figure.axes[0].lines if line.get_color() == GUIDE]
    assert verticals == [[0.5, 0.5]]


def test_lines_may_have_labels_and_scales_of_their_own_a_panel():
    line = charts.Line("a", [1.0, 2.0], [3.0, 4.0])
    picture = charts.lines(
        {"one": [line], "two": [line]},
        alt=ALT,
        xlabel=[charts.Axis("σ", log=True), "reward"],
        ylabel=["y", "z"],
    )
    assert [axes.get_xlabel() for axes in picture.figure.axes] == ["σ", "reward"]
    assert [axes.get_xscale() for axes in picture.figure.axes] == ["log", "linear"]


def test_mapped_curves_and_numbers_are_where_the_map_puts_them():
    curves, points = torch.rand(3, 7, 2), torch.tensor([[0.5, 1.0], [-1.0, 0.0]])
    picture = plane.mapped({"z": (curves, points), "x": (2 * curves, 2 * points)}, alt=ALT, mixtures={"x": ring()})
    before, after = picture.figure.axes
    for axes, scale in ((before, 1.0), (after, 2.0)):
        assert len(axes.lines) == 3
        assert np.allclose(axes.lines[1].get_xydata(), scale * curves[1])
        assert [text.get_text() for text in axes.texts] == ["1", "2"]
        assert np.allclose(axes.texts[0].get_position(), scale * points[0])
    assert not before.collections
    assert after.collections, "the mixture's contours"


def test_one_axis_for_all_panels_means_equal_heights_and_one_per_panel_its_own():
    panels = {"low": [charts.Line("a", [0.0, 1.0], [0.0, 1.0])], "high": [charts.Line("a", [0.0, 1.0], [5.0, 9.0])]}
    shared = charts.lines(panels, alt=ALT, xlabel="x", ylabel=charts.Axis("y", guides=[2.0])).figure.axes
    low, high = shared[0].get_ylim()
    assert (low, high) == shared[1].get_ylim()
    assert low < 0 < 9 < high
    assert [line.get_ydata()[0] for line in shared[1].lines if line.get_color() == GUIDE] == [2.0]
    own = charts.lines(panels, alt=ALT, xlabel="x", ylabel=["y", charts.Axis("y", limits=(4.0, 10.0))]).figure.axes
    assert own[0].get_ylim()[1] < 2
    assert own[1].get_ylim() == (4.0, 10.0)


def test_panels_do_not_shrink_for_the_legend():
    """Its rows are as few and as even as fit, and the figure grows by them."""
    heights = {}
    for count, expected in ((2, 2), (4, 4), (6, 3), (11, 4)):
        content = [charts.Line(f"a line, {k:2d}", [0.0], [float(k)]) for k in range(count)]
        figure = charts.lines({"a": content, "b": content}, alt=ALT, xlabel="x", ylabel="y").figure
        figure.canvas.draw()
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width
        assert legend._ncols == expected
        heights[count] = figure.axes[0].get_window_extent().height
    assert heights[11] == pytest.approx(heights[2], rel=0.02)


def test_labels_move_apart_as_little_as_need_be():
    assert charts.apart([0.0, 1.0, 5.0], 1.0) == [0.0, 1.0, 5.0], "nothing touches"
    np.testing.assert_allclose(charts.apart([0.0, 0.0, 5.0], 1.0), [-0.5, 0.5, 5.0])
    np.testing.assert_allclose(charts.apart([0.0, 0.0, 0.0, 1.2], 1.0), [-1.2, -0.2, 0.8, 1.8])
    wished = np.sort(np.random.default_rng(0).normal(size=12))
    found = np.array(charts.apart(wished.tolist(), 0.3))
    assert np.diff(found).min() > 0.3 - 1e-9
    cost = ((found - wished) ** 2).sum()
    for k in range(12):
        for step in (-1e-3, 1e-3):
            other = found + step * (np.arange(12) == k)
            if np.diff(other).min() > 0.3 - 1e-9:
                assert ((other - wished) ** 2).sum() > cost, "no label alone is better off elsewhere"


def test_lines_are_named_at_their_ends_in_the_order_of_their_heights():
    picture = charts.lines({"": [charts.Line("", [0.0, 1.0], [0.0, 1.0])]}, alt=ALT, xlabel="x", ylabel="y")
    (axes,) = picture.figure.axes
    charts.label_ends(axes, [("up", 1.0, 1.0, "black"), ("down", 0.2, 0.0, "red"), ("nearly up", 0.9, 0.99, "blue")])
    picture.figure.canvas.draw()
    assert [text.get_text() for text in axes.texts] == ["down", "nearly up", "up"]
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # an annotation's own would hold its line
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes)), "none covers another"
    assert min(box.x0 for box in boxes) > axes.get_window_extent().x1


def test_a_logarithmic_axis_within_a_decade_has_plain_numbers():
    def written(high):
        line = charts.Line("", [1.2, high], [0.0, 1.0])
        figure = charts.lines({"": [line]}, alt=ALT, xlabel=charts.Axis("x", log=True), ylabel="y").figure
        figure.canvas.draw()
        axis = figure.axes[0].xaxis
        return "".join(tick.get_text() for tick in [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)])

    assert "10^" not in written(4.0)
    assert "10^" in written(400.0), "the control"


def test_a_long_log_is_drawn_as_means_and_one_step_as_nothing():
    rows = [{"step": n, "lag": float(n % 2)} for n in range(2 * MOST)] + [{"step": 2 * MOST}]
    steps, values = stretches(rows, "lag")
    assert steps == [2 * n + 0.5 for n in range(MOST)]
    assert set(values) == {0.5}
    assert stretches(rows[:3], "lag") == ([0, 1, 2], [0.0, 1.0, 0.0])
    assert run_curves(rows[:1], []) is None
