r"""What a figure shows equals what it was given, and bad input is refused at the door."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ppvae.viz.plots import gap_bars, image_grid, khat_histogram, latent_scatter, training_curves


def texts(figure):
    legends = [axes.get_legend() for axes in figure.axes] + list(figure.legends)
    inside = [t for legend in legends if legend for t in legend.get_texts()]
    return [t.get_text() for axes in figure.axes for t in axes.texts] + [
        t.get_text() for t in inside
    ]


def saved(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=40)
    return (tmp_path / "figure.png").stat().st_size > 0


def test_plots_leave_pyplot_and_global_settings_alone():
    # copy(), because reading the backend out of rcParams would itself import pyplot
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy(); import ppvae.viz.plots, torch; "
        "ppvae.plots.latent_scatter(torch.zeros(3, 2)); "
        "assert 'matplotlib.pyplot' not in sys.modules; assert before == matplotlib.rcParams.copy()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- gap_bars ---------------------------------------------------------------


@pytest.mark.parametrize("num_guides", [1, 4, 10])
def test_gap_bars_are_as_long_as_the_gaps(num_guides, tmp_path):
    approximation = [(0.1 + i, 0.02) for i in range(num_guides)]
    amortization = [(2.0 / (i + 1), 0.05) for i in range(num_guides)]
    names = [f"guide_{i}" for i in range(num_guides)]
    figure = gap_bars(names, approximation, amortization)
    first, second = (c for c in figure.axes[0].containers if hasattr(c, "patches"))
    assert [bar.get_width() for bar in first] == pytest.approx([v for v, _ in approximation])
    assert [bar.get_width() for bar in second] == pytest.approx([v for v, _ in amortization])
    assert [bar.get_x() for bar in second] == pytest.approx([v for v, _ in approximation])
    total = [a + b for (a, _), (b, _) in zip(approximation, amortization, strict=True)]
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    assert list(marks[0].get_xdata()) == pytest.approx(total)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == names
    assert "nats per row" in figure.axes[0].get_xlabel()
    assert saved(figure, tmp_path)


def test_whiskers_of_gap_bars_are_one_standard_error_long():
    figure = gap_bars(["a"], [(1.0, 0.25)], [(2.0, 0.5)])
    ends = [line.get_segments()[0][:, 0] for line in figure.axes[0].collections]
    np.testing.assert_allclose(ends, [[0.75, 1.25], [2.5, 3.5]])


def test_negative_gap_is_drawn_left_of_zero_and_printed():
    figure = gap_bars(["a", "b"], [(-0.02, 0.03), (0.3, 0.02)], [(0.3, 0.02), (-0.05, 0.02)])
    first, second = (c for c in figure.axes[0].containers if hasattr(c, "patches"))
    assert [bar.get_x() for bar in first] == [0, 0]
    assert [bar.get_x() for bar in second] == [0, 0]
    assert second[1].get_width() == -0.05
    assert {"−0.02 ± 0.03", "0.30 ± 0.02", "−0.05 ± 0.02", "0.28", "0.25"} <= set(texts(figure))


def test_gap_bars_refuse_missing_or_impossible_numbers():
    with pytest.raises(ValueError, match="at least one guide; got 0 names"):
        gap_bars([], [], [])
    with pytest.raises(ValueError, match="in amortization_gap.*got 2 names"):
        gap_bars(["a", "b"], [(1, 0.1), (1, 0.1)], [(1, 0.1)])
    with pytest.raises(ValueError, match=r"in approximation_gap; got .*nan.* for \['b'\]"):
        gap_bars(["a", "b"], [(1, 0.1), (math.nan, 0.1)], [(1, 0.1), (1, 0.1)])
    with pytest.raises(ValueError, match="standard errors of zero or more"):
        gap_bars(["a"], [(1, -0.1)], [(1, 0.1)])


# --- training_curves --------------------------------------------------------


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
    assert np.diff(heights).min() > 0.049 * (high - low)
    assert heights[-1] <= high


def test_one_epoch_is_enough():
    figure = training_curves({"a": ([-3.0], None)})
    assert figure.axes[0].get_xlim() == (0, 2)


def test_training_curves_refuse_nothing_and_nan():
    with pytest.raises(ValueError, match="at least one guide"):
        training_curves({})
    with pytest.raises(ValueError, match="finite ELBO in some epoch of guide 'a'; got 2 epochs"):
        training_curves({"a": ([-3.0, -2.0], [math.nan, math.nan])})
    with pytest.raises(ValueError, match="got 0 epochs"):
        training_curves({"a": ([], None)})


# --- image_grid -------------------------------------------------------------


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
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, *event, generator=generator)
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


def test_image_grid_refuses_what_it_cannot_show():
    x = torch.zeros(2, 560)
    with pytest.raises(ValueError, match=r"row 'frey'; got 560. Pass shape=\(H, W\)"):
        image_grid({"frey": x})
    with pytest.raises(ValueError, match=r"fit shape \(28, 28\) in row 'frey'"):
        image_grid({"frey": x}, shape=(28, 28))
    with pytest.raises(ValueError, match=r"values in \[0, 1\] in row 'frey'; got 0 to 2"):
        image_grid({"frey": x.index_fill(0, torch.tensor([1]), 2.0)})
    with pytest.raises(ValueError, match="1 or 3 channels in row 'c'; got 2"):
        image_grid({"c": torch.zeros(1, 2, 4, 4)})
    with pytest.raises(ValueError, match="one height and width"):
        image_grid({"a": torch.zeros(1, 4), "b": torch.zeros(1, 9)})
    with pytest.raises(ValueError, match="at least one labelled row"):
        image_grid({})
    with pytest.raises(ValueError, match="in row 'empty'"):
        image_grid({"empty": torch.zeros(0, 4)})


# --- khat_histogram ---------------------------------------------------------


def test_khat_histogram_counts_every_row(tmp_path):
    generator = torch.Generator().manual_seed(0)
    khat = torch.randn(500, generator=generator) * 0.3 + 0.5
    khat[:20], khat[20:23], khat[23] = -math.inf, math.inf, 7.0
    figure = khat_histogram({"a": khat, "b": khat[30:]}, threshold=0.7)
    first, second = figure.axes
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
    assert saved(figure, tmp_path)


def test_khat_histogram_of_an_exact_guide_says_so(tmp_path):
    figure = khat_histogram({"exact": torch.full((9,), -math.inf)}, threshold=0.7)
    assert "not drawn: 9 at −∞" in figure.axes[0].get_legend().get_texts()[0].get_text()
    assert saved(figure, tmp_path)


def test_khat_histogram_refuses_nan_and_nothing():
    with pytest.raises(ValueError, match="at least one guide"):
        khat_histogram({}, 0.7)
    with pytest.raises(ValueError, match="none NaN for guide 'a'; got 2 values, 1 of them NaN"):
        khat_histogram({"a": torch.tensor([0.1, math.nan])}, 0.7)
    with pytest.raises(ValueError, match="guide 'a'; got 0 values"):
        khat_histogram({"a": torch.zeros(0)}, 0.7)


# --- latent_scatter ---------------------------------------------------------


def test_latent_scatter_shows_the_points_of_each_class(tmp_path):
    z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(60) % 12
    figure = latent_scatter(z, labels)
    for group, drawn in enumerate(figure.axes[0].collections):
        np.testing.assert_allclose(drawn.get_offsets(), z[labels == group].detach())
    assert {str(group) for group in range(12)} <= set(texts(figure))
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes())
        for c in figure.axes[0].collections
    }
    assert len(looks) == 12
    assert saved(figure, tmp_path)


def test_latent_scatter_draws_quantities_on_a_scale_and_no_labels_in_one_colour():
    z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    figure = latent_scatter(z, z[:, 0])
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array(), z[:, 0])
    assert len(figure.axes) == 2  # the second is the colour bar
    plain = latent_scatter(z)
    assert isinstance(plain, Figure)
    np.testing.assert_allclose(plain.axes[0].collections[0].get_offsets(), z)


def test_latent_scatter_refuses_what_does_not_fit():
    z = torch.zeros(5, 2)
    with pytest.raises(ValueError, match=r"shape \(N, 2\).*got \(5, 3\)"):
        latent_scatter(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"with shape \(5,\); got \(4,\)"):
        latent_scatter(z, torch.zeros(4))
    with pytest.raises(ValueError, match="finite z"):
        latent_scatter(z * math.nan)
    with pytest.raises(ValueError, match="finite labels"):
        latent_scatter(z, torch.full((5,), math.nan))
