"""A JPEG may be decoded small, but never so small that its pixels are not Pillow's own filter's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fgan.data.decode import Spec, decode


@pytest.mark.parametrize(("side", "size"), [(64, 32), (64, 40), (100, 32), (127, 32), (32, 32)])
def test_a_jpeg_less_than_four_times_as_large_is_decoded_whole(tmp_path, side, size):
    """So a file without loss that holds the same pixels gives the same example."""
    pixels = np.random.default_rng(0).integers(0, 256, (side, side + 9), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as whole:
        whole.save(tmp_path / "a.png")
    spec = Spec(1, size, "crop")
    jpeg, png = (decode(str(tmp_path / f"a.{kind}"), spec) for kind in ("jpg", "png"))
    assert jpeg.shape == (1, size, size)
    assert np.array_equal(jpeg, png)


def test_a_jpeg_four_times_as_large_is_decoded_at_half(tmp_path):
    """Noise of the finest grain then has less contrast than after one filter of the whole."""
    pixels = np.random.default_rng(0).integers(0, 256, (264, 264), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as half:
        half.draft(None, (132, 132))
        half.resize((64, 64), Image.Resampling.BILINEAR).save(tmp_path / "a.png")
    spec = Spec(1, 64, "crop")
    jpeg, png = (decode(str(tmp_path / f"a.{kind}"), spec) for kind in ("jpg", "png"))
    assert np.abs(jpeg.astype(int) - png).max() <= 1
