r"""What a figure shows equals what it was given, and bad input is refused at the door."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ppvae.viz.plots import (
    calibration_curves,
    gap_bars,
    image_grid,
    image_plane,
    khat_histogram,
    khat_map,
    latent_scatter,
    picture_shape,
    plane,
    tail_dots,
    training_curves,
    unit_bars,
)


def texts(figure):
    legends = [axes.get_legend() for axes in figure.axes] + list(figure.legends)
    inside = [t for legend in legends if legend for t in legend.get_texts()]
    return [t.get_text() for axes in figure.axes for t in axes.texts] + [
        t.get_text() for t in inside
    ]


def saved(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=40)
    return (tmp_path / "figure.png").stat().st_size > 0


def test_plots_leave_pyplot_and_global_settings_alone_and_come_only_when_asked_for():
    # copy(), because reading the backend out of rcParams would itself import pyplot
    code = (
        "import sys, ppvae; ppvae.fit, ppvae.gaps, ppvae.elbo, ppvae.compare, ppvae.diagnostics; "
        "heavy = {'matplotlib', 'pandas', 'sklearn', 'rich', 'jinja2'} & set(sys.modules); "
        "assert not heavy, heavy; import matplotlib, torch; before = matplotlib.rcParams.copy(); "
        "ppvae.plots.latent_scatter(torch.zeros(3, 2)); "
        "assert 'matplotlib.pyplot' not in sys.modules; assert before == matplotlib.rcParams.copy()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("num_guides", "compact"), [(1, False), (4, True), (10, False)])
def test_gap_bars_are_as_long_as_the_gaps(num_guides, compact, tmp_path):
    approximation = [(0.1 + i, 0.02) for i in range(num_guides)]
    amortization = [(2.0 / (i + 1), 0.05) for i in range(num_guides)]
    names = [f"guide_{i}" for i in range(num_guides)]
    figure = gap_bars(names, approximation, amortization, compact=compact)
    first, second = (c for c in figure.axes[0].containers if hasattr(c, "patches"))
    assert [bar.get_width() for bar in first] == pytest.approx([v for v, _ in approximation])
    assert [bar.get_width() for bar in second] == pytest.approx([v for v, _ in amortization])
    assert [bar.get_x() for bar in second] == pytest.approx([v for v, _ in approximation])
    total = [a + b for (a, _), (b, _) in zip(approximation, amortization, strict=True)]
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert list(marks[0].get_xdata()) == pytest.approx(total)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == names
    assert "nats per row" in figure.axes[0].get_xlabel()
    assert ("0.10 ± 0.02" in texts(figure)) != compact
    assert saved(figure, tmp_path)


def test_whiskers_of_gap_bars_are_one_standard_error_long():
    figure = gap_bars(["a"], [(1.0, 0.25)], [(2.0, 0.5)])
    ends = [line.get_segments()[0][:, 0] for line in figure.axes[0].collections]
    np.testing.assert_allclose(ends, [[0.75, 1.25], [2.5, 3.5]])


def test_negative_gap_is_drawn_left_of_zero_and_printed():
    figure = gap_bars(["a", "b"], [(-0.02, 0.03), (0.3, 0.02)], [(0.3, 0.02), (-0.05, 0.02)])
    first, second = (c for c in figure.axes[0].containers if hasattr(c, "patches"))
    assert [bar.get_x() for bar in (*first, *second)] == [0, 0, 0, 0]
    assert second[1].get_width() == -0.05
    assert {"−0.02 ± 0.03", "0.30 ± 0.02", "−0.05 ± 0.02", "0.28", "0.25"} <= set(texts(figure))


def test_training_curves_show_every_epoch_as_given(tmp_path):
    train, validation = [-9.0, -4.0, -3.0], [-9.5, math.nan, -3.5]
    figure = training_curves({"a": (train, validation), "b": ([-8.0, -5.0], None)})
    solid, dashed, other = figure.axes[0].lines
    np.testing.assert_array_equal(solid.get_ydata(), train)
    np.testing.assert_array_equal(dashed.get_ydata(), validation)
    np.testing.assert_array_equal(other.get_xdata(), [1, 2])
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert {"a", "b", "train", "validation"} <= set(texts(figure))
    assert saved(figure, tmp_path)
    assert training_curves({"a": ([-3.0], None)}).axes[0].get_xlim() == (0, 2)


def test_first_epochs_do_not_squash_the_rest_and_the_axis_says_so():
    elbo = -90 - 1e4 * np.exp(-np.arange(50.0))
    axes = training_curves({"a": (elbo, None)}).axes[0]
    low, high = axes.get_ylim()
    assert -95 < low < -90 < high
    assert f"{(elbo < low).sum()} epochs lie below the axis" in axes.get_ylabel()
    assert "nats per row" in axes.get_ylabel()


def test_a_bad_guide_stays_in_sight_and_nothing_cut_is_not_mentioned():
    curves = {f"guide_{i}": ([-90.0] * 20, None) for i in range(9)}
    axes = training_curves({**curves, "bad": ([-200.0] * 20, None)}).axes[0]
    assert axes.get_ylim()[0] < -200
    assert "below the axis" not in axes.get_ylabel()


def test_labels_of_equal_curves_do_not_overlap():
    axes = training_curves({f"guide_{i}": ([-2.0, -1.0], None) for i in range(10)}).axes[0]
    heights = np.sort([label.xyann[1] for label in axes.texts])
    low, high = axes.get_ylim()
    assert np.diff(heights).min() > 0.049 * (high - low) and heights[-1] <= high


@pytest.mark.parametrize(
    ("event", "shape", "image"),
    [
        ((64,), None, (8, 8)),
        ((560,), (28, 20), (28, 20)),
        ((28, 20), None, (28, 20)),
        ((1, 8, 8), None, (8, 8)),
        ((3, 8, 6), None, (8, 6)),
        ((144,), (3, 8, 6), (8, 6)),
    ],
)
def test_image_grid_shows_the_pixels_given(event, shape, image, tmp_path):
    x = torch.rand(4, *event, generator=torch.Generator().manual_seed(0))
    figure = image_grid({"data": x, "again": x[:2]}, shape=shape, title="Images")
    height, width = image
    pixels = x.reshape(4, -1, height, width).expand(4, 3, height, width)
    for axes, count in zip(figure.axes, (4, 2), strict=True):
        strip = np.asarray(axes.images[0].get_array())
        assert strip.shape == (height, 4 * (width + 1) - 1, 3)
        for i in range(count):
            shown = strip[:, i * (width + 1) : i * (width + 1) + width]
            np.testing.assert_allclose(shown, pixels[i].permute(1, 2, 0))
    assert (strip[:, 2 * (width + 1) :] == 1).all()
    assert [axes.get_ylabel() for axes in figure.axes] == ["data", "again"]
    assert saved(figure, tmp_path)


def test_missing_pixels_are_coloured_and_explained():
    x = torch.full((2, 4), 0.5)
    x[0, 3] = math.nan
    figure = image_grid({"data": x})
    pixel = np.asarray(figure.axes[0].images[0].get_array())[1, 1]
    assert pixel[0] != pixel[2]
    assert "missing" in figure.axes[-1].get_xlabel()


@pytest.mark.parametrize("count", [1, 4, 12])
def test_no_label_beside_many_rows_of_images_is_cut_off(count):
    figure = image_grid({f"a long label {k}": torch.zeros(count, 16) for k in range(11)})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert min(axes.yaxis.label.get_window_extent(renderer).x0 for axes in figure.axes) >= 0


def test_the_points_of_a_plane_stand_at_equal_steps_of_probability_in_reading_order():
    points = plane(steps=5, share=0.8).reshape(5, 5, 2)
    probability = torch.distributions.Normal(0.0, 1.0).cdf(points)
    expected = torch.linspace(0.1, 0.9, 5)
    torch.testing.assert_close(probability[2, :, 0], expected)  # grows to the right
    torch.testing.assert_close(probability[:, 2, 1], expected.flip(0))  # and upwards
    images = torch.arange(4.0).reshape(4, 1, 1).expand(4, 2, 3) / 4
    sheet = image_plane(images).axes[0].images[0].get_array()[..., 0]
    assert sheet.shape == (4, 6)
    assert sheet[::2, ::3].tolist() == [[0.0, 0.25], [0.5, 0.75]]


def test_what_is_a_picture_is_decided_by_its_shape_and_grey_values():
    assert picture_shape(torch.zeros(2, 16)) == (4, 4)
    assert picture_shape(torch.full((2, 3, 5, 4), torch.nan)) == (3, 5, 4)


def test_khat_histogram_counts_every_row(tmp_path):
    khat = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.5
    khat[:20], khat[20:23], khat[23] = -math.inf, math.inf, 7.0
    exact = torch.full((9,), -math.inf)
    figure = khat_histogram({"a": khat, "b": khat[30:], "exact": exact}, threshold=0.7)
    first, second, third = figure.axes
    assert sum(bar.get_height() for bar in first.patches) == 500 - 24
    assert sum(bar.get_height() for bar in second.patches) == 470
    above = sum(bar.get_height() for bar in second.patches if bar.get_x() >= 0.7)
    assert above == int((khat[30:] > 0.7).sum())
    assert all(bool(bar.get_hatch()) == (bar.get_x() >= 0.7) for bar in second.patches)
    legend = first.get_legend().get_texts()[0].get_text()
    share = (khat > 0.7).double().mean()
    assert f"a: {share:.0%} of 500 rows above threshold" in legend
    assert "not drawn: 20 at −∞ (constant weights), 1 above 3, 3 at +∞ (no fit)" in legend
    assert first.lines[0].get_xdata()[0] == 0.7
    assert "not drawn: 9 at −∞" in third.get_legend().get_texts()[0].get_text()
    assert saved(figure, tmp_path)


def test_the_map_counts_rows_above_the_threshold():
    khat = torch.tensor([0.1, 0.9, torch.inf, -torch.inf])
    figure = khat_map(khat, torch.arange(4.0), 0.7, label="log p(x) (nats)")
    assert "not trusted (50%)" in texts(figure)
    assert figure.axes[0].get_xlabel() == "log p(x) (nats)"


def test_calibration_names_the_worst_curves_and_greys_the_others():
    levels = torch.linspace(0.1, 0.9, 9)
    curves = {f"q{i}": levels + 0.01 * i for i in range(9)}
    labels = texts(calibration_curves(levels, curves, (levels - 0.05, levels + 0.05)))
    assert {"q8", "q5"} <= set(labels) and "q4" not in labels


def test_unit_bars_stand_in_order_and_count_the_idle():
    values = torch.tensor([0.001, 1.0, 0.0])
    figure = unit_bars(["a", "b", "c"], values, torch.zeros(3), 0.01, label="variance")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["b", "a", "c"]
    assert "idle (2 of 3)" in texts(figure)
    figure.canvas.draw()


def test_tail_dots_have_one_line_a_statistic():
    figure = tail_dots({"mean": (0.5, 0.01), "max": (0.0, 0.01)}, 0.025)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["mean", "max"]


def test_latent_scatter_shows_the_points_of_each_class(tmp_path):
    z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(60) % 12
    figure = latent_scatter(z, labels)
    drawn = figure.axes[0].collections
    for group, points in enumerate(drawn):
        np.testing.assert_allclose(points.get_offsets(), z[labels == group].detach())
    assert {str(group) for group in range(12)} <= set(texts(figure))
    looks = {(tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in drawn}
    assert len(looks) == 12
    assert saved(figure, tmp_path)


def test_latent_scatter_draws_quantities_on_a_scale_and_no_labels_in_one_colour():
    z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    figure = latent_scatter(z, z[:, 0])
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), z[:, 0])
    assert len(figure.axes) == 2  # the second is the colour bar
    np.testing.assert_allclose(latent_scatter(z).axes[0].collections[0].get_offsets(), z)


HALF, LEVELS, Z = torch.full((3,), 0.5), torch.linspace(0.1, 0.9, 9), torch.zeros(5, 2)
FREY = torch.zeros(2, 560)
REFUSED = {
    "at least one guide; got 0 names": lambda: gap_bars([], [], []),
    "in amortization_gap.*got 2 names": lambda: gap_bars("ab", [(1, 0.1)] * 2, [(1, 0.1)]),
    r"in approximation_gap; got .*nan.* for \['b'\]": lambda: gap_bars(
        "ab", [(1, 0.1), (math.nan, 0.1)], [(1, 0.1)] * 2
    ),
    "standard errors of zero or more": lambda: gap_bars(["a"], [(1, -0.1)], [(1, 0.1)]),
    "at least one guide in `curves`": lambda: training_curves({}),
    "finite ELBO in some epoch of guide 'a'; got 2 epochs": lambda: training_curves(
        {"a": ([-3.0, -2.0], [math.nan, math.nan])}
    ),
    "got 0 epochs": lambda: training_curves({"a": ([], None)}),
    r"row 'frey'; got 560. Pass shape=\(H, W\)": lambda: image_grid({"frey": FREY}),
    r"fit shape \(28, 28\) in row 'frey'": lambda: image_grid({"frey": FREY}, shape=(28, 28)),
    r"values in \[0, 1\] in row 'a'; got 0 to 2": lambda: image_grid(
        {"a": torch.tensor([[0.0], [2.0]])}
    ),
    "1 or 3 channels in row 'c'; got 2": lambda: image_grid({"c": torch.zeros(1, 2, 4, 4)}),
    "one height and width": lambda: image_grid({"a": torch.zeros(1, 4), "b": torch.zeros(1, 9)}),
    "at least one labelled row": lambda: image_grid({}),
    "in row 'empty'": lambda: image_grid({"empty": torch.zeros(0, 4)}),
    "at least 2 steps": lambda: plane(steps=1),
    r"share in \(0, 1\)": lambda: plane(share=1.0),
    "square number of images; got 3": lambda: image_plane(torch.zeros(3, 2, 2)),
    r"shape \(9,\) are no pictures": lambda: picture_shape(torch.zeros(2, 9)),
    r"shape \(4, 4\) are no pictures": lambda: picture_shape(torch.zeros(2, 4, 4)),
    r"not all in \[0, 1\]": lambda: picture_shape(torch.full((2, 16), 1.5)),
    "at least one guide in `khat`": lambda: khat_histogram({}, 0.7),
    "none NaN for guide 'a'; got 2 values, 1 of them NaN": lambda: khat_histogram(
        {"a": torch.tensor([0.1, math.nan])}, 0.7
    ),
    "guide 'a'; got 0 values": lambda: khat_histogram({"a": torch.zeros(0)}, 0.7),
    "two numbers for each": lambda: khat_map(HALF, HALF[:2], 0.7, label=""),
    "at least one curve and a band": lambda: calibration_curves(LEVELS, {}, (LEVELS, LEVELS)),
    "a value and a standard error": lambda: unit_bars(["a"], HALF, HALF, 0.01, label=""),
    "at least one statistic": lambda: tail_dots({}, 0.025),
    r"shape \(N, 2\).*got \(5, 3\)": lambda: latent_scatter(torch.zeros(5, 3)),
    r"with shape \(5,\); got \(4,\)": lambda: latent_scatter(Z, torch.zeros(4)),
    "finite z": lambda: latent_scatter(Z * math.nan),
    "finite labels": lambda: latent_scatter(Z, torch.full((5,), math.nan)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_drawn_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()
