r"""The plane of two latent numbers: where its stops are, and how its sheet is laid out; what is a picture."""

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ppvae.viz.plots import image_grid, image_plane, picture_shape, plane


def test_the_stops_of_a_plane_stand_at_equal_steps_of_probability_in_reading_order():
    stops = plane(steps=5, share=0.8).reshape(5, 5, 2)
    chance = torch.distributions.Normal(0.0, 1.0).cdf(stops)
    expected = torch.linspace(0.1, 0.9, 5)
    torch.testing.assert_close(chance[2, :, 0], expected)  # grows to the right
    torch.testing.assert_close(chance[:, 2, 1], expected.flip(0))  # and upwards


def test_images_of_a_plane_stand_in_reading_order_on_one_sheet():
    images = torch.arange(4.0).reshape(4, 1, 1).expand(4, 2, 3) / 4
    (axes,) = image_plane(images).axes
    sheet = axes.images[0].get_array()[..., 0]
    assert sheet.shape == (4, 6)
    assert sheet[::2, ::3].tolist() == [[0.0, 0.25], [0.5, 0.75]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plane(steps=1), "at least 2 steps"),
        (lambda: plane(share=1.0), r"share in \(0, 1\)"),
        (lambda: image_plane(torch.zeros(3, 2, 2)), "square number of images; got 3"),
    ],
)
def test_a_plane_that_is_none_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_a_picture_is_told_from_its_shape_and_grey_values():
    assert picture_shape(torch.zeros(2, 16)) == (4, 4)
    assert picture_shape(torch.full((2, 3, 5, 4), torch.nan)) == (3, 5, 4)
    for rows, reason in (
        (torch.zeros(2, 9), r"shape \(9,\) are no pictures"),
        (torch.zeros(2, 4, 4), r"shape \(4, 4\) are no pictures"),
        (torch.full((2, 16), 1.5), r"not all in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=reason):
            picture_shape(rows)


@pytest.mark.parametrize("count", [1, 4, 12])
def test_no_label_beside_many_rows_of_images_is_cut_off(count):
    figure = image_grid({f"a long label {k}": torch.zeros(count, 16) for k in range(11)})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert min(axes.yaxis.label.get_window_extent(renderer).x0 for axes in figure.axes) >= 0
