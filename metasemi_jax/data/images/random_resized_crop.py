"""The box of a random resized crop, drawn on the host."""

import math
from typing import NamedTuple

import numpy as np

ATTEMPTS = 100  # as in the authors' program; torchvision makes ten


class CropRange(NamedTuple):
    """What share of the image a crop takes, and of which shape; ImageNet's is (0.1, 1) and (0.8, 1.25)."""

    area: tuple[float, float]  # of the image's area, 0 to 1
    aspect: tuple[float, float]  # width / height


def draw_box(rng: np.random.Generator, width: int, height: int, crop: CropRange) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels, as torchvision's RandomResizedCrop draws it, in more attempts.

    The area is uniform, the logarithm of the aspect ratio too. If no draw fits into the image, it is
    the largest box around the middle whose aspect ratio is in the range.
    """
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*crop.area)
        aspect = math.exp(rng.uniform(*map(math.log, crop.aspect)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    least, most = crop.aspect
    w = min(width, max(1, round(height * most)))
    h = min(height, max(1, round(width / least)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
