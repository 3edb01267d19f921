import io

import numpy as np
import pytest
from PIL import Image

from metasemi_jax.data.png import encode_png


@pytest.mark.parametrize('shape', [(1, 1, 3), (32, 32, 3), (7, 50, 3), (200, 300, 3)])
@pytest.mark.parametrize('levels', [1, 4, 256])
def test_pil_reads_the_image_back(shape, levels):
    image = np.random.default_rng(0).integers(0, levels, shape, dtype=np.uint8)
    for view in (image, image[::-1], np.asfortranarray(image)):
        with Image.open(io.BytesIO(encode_png(view))) as read:
            assert (read.format, read.mode) == ('PNG', 'RGB')
            np.testing.assert_array_equal(np.asarray(read), view)


def test_it_compresses():
    assert len(encode_png(np.full((32, 32, 3), 7, np.uint8))) < 150
