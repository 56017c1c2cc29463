r"""The plane of two latent numbers: where its stops are, and how its sheet is laid out."""

import pytest
import torch

from ppvae.plots import image_plane, plane


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
