"""Decodes one image file into a uint8 array, by Pillow and without JAX, for worker processes."""

import os
import stat
import warnings
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from metasemi_jax.data.images.random_resized_crop import CropRange, draw_box
from metasemi_jax.errors import reason_of

# Pillow judges a file by its contents: unless told otherwise it would start Ghostscript for PostScript that
# is called x.png.
FORMATS = ('PNG', 'JPEG', 'BMP', 'WEBP', 'TIFF', 'GIF')
GREY_MODES = ('1', 'L', 'LA', 'La', 'F')  # and 'I', 'I;16', ...
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
# Register all formats now: several threads must not do it at once.
Image.init()
# Pillow's remarks, on stderr, about metadata of images that it reads all the same.
warnings.filterwarnings('ignore', category=UserWarning, module=r'PIL\.')
File = str | os.PathLike | IO[bytes]


def open_image(file: File) -> Image.Image:
    """Read the header of an image file of `FORMATS`; of several frames or pages, the first counts.

    Raises:
      Exception: no regular file, or not an image.
    """
    # Opening a named pipe would wait for its other end.
    if isinstance(file, str | os.PathLike) and not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError('not a regular file')
    return Image.open(file, formats=FORMATS)


def is_colour(file: File) -> bool:
    """Whether an image is in colour, by its header (and palette)."""
    with open_image(file) as image:
        return _is_colour(image)


def height_and_width(file: File) -> tuple[int, int]:
    """Pixels of an image, by its header; before it is turned as its EXIF orientation says."""
    with open_image(file) as image:
        return image.height, image.width


def check_image(file: File) -> bool:
    """Decode an image as cheaply as its format allows, to find whether it can be; returns `is_colour`.

    A JPEG is decoded at an eighth of its size: all its bytes are read, few of its pixels are made.

    Raises:
      Exception: it cannot be read. Pillow fails on damaged files with SyntaxError, struct.error and others.
    """
    with open_image(file) as image:
        colour = _is_colour(image)
        image.draft(None, (1, 1))
        _upright(image)
        return colour


def decode_square(file: File, size: int, *, resize: int = 0, colour: bool) -> np.ndarray:
    """The middle square of an image: uint8 [size, size, C], C being 3 if `colour` and 1 otherwise.

    The image is turned as its EXIF orientation says, laid on black where it is transparent, scaled so that
    its shorter side has `resize` pixels (bilinear, antialiased; 0: `size` pixels) and cut to its middle. With
    `resize` 0 an image that is `size` × `size` keeps its pixels. 16-bit grey becomes 8-bit.
    """
    resize = resize or size
    with open_image(file) as image:
        # A large JPEG is decoded at a half, a quarter or an eighth, no smaller than twice the size.
        image.draft(None, (2 * resize, 2 * resize))
        return _array(_middle(_in_colour(_upright(image), colour), size, resize))


def decode_crop(
    file: File, size: int, rng: np.random.Generator, crop: CropRange, *, flip: bool, colour: bool
) -> np.ndarray:
    """A random part of an image, scaled to uint8 [size, size, C] and perhaps mirrored, all as `rng` says.

    Turned, laid on black and scaled as by `decode_square`.
    """
    with open_image(file) as image:
        # Pillow calls a JPEG with a second picture MPO.
        if image.format not in ('JPEG', 'MPO'):
            # Nothing but JPEG can be drafted. A TIFF turns itself as it is loaded.
            image.load()
        sideways = _orientation(image) >= 5
        width, height = image.size[::-1] if sideways else image.size
        left, top, right, bottom = draw_box(rng, width, height, crop)
        mirrored = flip and rng.random() < 0.5
        # Draft mode as above, for the crop.
        shrink = min(right - left, bottom - top) / (2 * size)
        if shrink > 1:
            image.draft(None, tuple(int(side / shrink) for side in image.size))
        upright = _in_colour(_upright(image), colour)
        x, y = upright.width / width, upright.height / height
        box = (left * x, top * y, right * x, bottom * y)
        pixels = _array(upright.resize((size, size), Image.Resampling.BILINEAR, box))
        return pixels[:, ::-1] if mirrored else pixels


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size` pixels (bilinear, antialiased), then the middle square."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)


def reason(error: Exception) -> str:
    """Why an image cannot be read, for people."""
    return 'not an image, or damaged' if isinstance(error, UnidentifiedImageError) else reason_of(error)


def _is_colour(image: Image.Image) -> bool:
    if image.mode == 'P':
        mode, palette = image.palette.getdata()
        levels = np.frombuffer(palette, np.uint8)
        if mode == 'RGB' and len(levels) % 3 == 0:
            rows = levels.reshape(-1, 3)
            return not (rows == rows[:, :1]).all()
    return image.mode not in GREY_MODES and not image.mode.startswith('I')


def _upright(image: Image.Image) -> Image.Image:
    """The image decoded, turned and converted to 8 bits."""
    image.load()
    orientation = _orientation(image)
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if image.mode == 'F':
        raise ValueError('float pixels have no known range')
    if not image.mode.startswith('I'):
        return image
    # Pillow's own conversion would clip 16-bit pixels to 255.
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError('its pixels have more than 16 bits')
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where the file says nothing or what EXIF does not know."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if value in TURNS else 1
    # Pillow and what it returns fail on damaged metadata in several ways; the pixels may be whole.
    except Exception:
        return 1


def _in_colour(image: Image.Image, colour: bool) -> Image.Image:
    if image.has_transparency_data:
        layer = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', layer.size, (0, 0, 0, 255)), layer)
    mode = 'RGB' if colour else 'L'
    return image if image.mode == mode else image.convert(mode)


def _middle(image: Image.Image, size: int, resize: int) -> Image.Image:
    if resize == size:
        return resize_image(image, size)
    shorter = min(image.size)
    # The square of the image that becomes `size` pixels where its shorter side becomes `resize`.
    width, height = (side * resize / shorter for side in image.size)
    left, top = (width - size) / 2, (height - size) / 2
    scale = shorter / resize
    box = (left * scale, top * scale, (left + size) * scale, (top + size) * scale)
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


def _array(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]
