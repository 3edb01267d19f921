"""RandAugment with Pillow, written from the definitions of the two programs, for given draws."""

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

AFFINE = Image.Transform.AFFINE
PILLOW = {
    'identity': lambda image, _: image,
    'autocontrast': lambda image, _: ImageOps.autocontrast(image),
    'equalize': lambda image, _: ImageOps.equalize(image),
    'posterize': lambda image, bits: ImageOps.posterize(image, int(bits)),
    'solarize': lambda image, threshold: ImageOps.solarize(image, threshold),
    'brightness': lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    'contrast': lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    'color': lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    'sharpness': lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    'rotate': lambda image, degrees: image.rotate(degrees),
    'shear_x': lambda image, shear: image.transform(image.size, AFFINE, (1, shear, 0, 0, 1, 0)),
    'shear_y': lambda image, shear: image.transform(image.size, AFFINE, (1, 0, 0, shear, 1, 0)),
    'translate_x': lambda image, pixels: image.transform(image.size, AFFINE, (1, 0, pixels, 0, 1, 0)),
    'translate_y': lambda image, pixels: image.transform(image.size, AFFINE, (1, 0, 0, 0, 1, pixels)),
}
ON_RGB = ('autocontrast', 'equalize', 'posterize', 'solarize')


def google_magnitude(name, level):
    """Of 1 to 9, before the sign, in float64."""
    whole = {'rotate': 30, 'translate_x': 10, 'translate_y': 10}
    if name in whole:
        return int(level * whole[name] / 10)
    if name in ('shear_x', 'shear_y'):
        return float(level) * 0.3 / 10
    if name in ('color', 'contrast', 'brightness', 'sharpness'):
        return float(level) * 1.8 / 10 + 0.1
    return {'posterize': 4 - int(level * 4 / 10), 'solarize': 256 - int(level * 256 / 10)}.get(name, 0)


def to_pillow(image):
    """[H, W, C] of uint8: mode L or RGB."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def pillow_operation(name, image, value):
    """One operation on uint8 [H, W, C]."""
    return np.asarray(PILLOW[name](to_pillow(image), value)).reshape(image.shape)


def google(image, names, values, box):
    """On RGBA; what is transparent in the end is grey, as is the box (top, left, bottom, right)."""
    channels = image.shape[-1]
    picture = to_pillow(image).convert('RGBA')
    for name, value in zip(names, values, strict=True):
        if name in ON_RGB:
            picture = PILLOW[name](picture.convert('RGB'), value).convert('RGBA')
        else:
            picture = PILLOW[name](picture, value)
    array = np.asarray(picture)
    image = np.where(array[..., 3:] == 0, 127, array[..., :channels]).astype(np.uint8)
    top, left, bottom, right = box
    image[top:bottom, left:right] = 127
    return image


def usb(image, names, values, box):
    """On RGB or L; the box is (top, left, bottom, right)."""
    picture = to_pillow(image)
    for name, value in zip(names, values, strict=True):
        picture = PILLOW[name](picture, value)
    image = np.array(picture).reshape(image.shape)
    top, left, bottom, right = box
    color = (125, 123, 114)
    luma = np.asarray(Image.new('RGB', (1, 1), color).convert('L'))[0, 0]
    image[top:bottom, left:right] = luma if image.shape[-1] == 1 else color
    return image


def usb_cutout(size, side, x, y):
    """Where USB's rectangle of `side` lies whose random point is (x, y): bool [height, width]."""
    height, width = size
    picture = Image.new('L', (width, height))
    if side > 0:
        left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
        corners = (left, top, min(width, left + side), min(height, top + side))
        ImageDraw.Draw(picture).rectangle(corners, 1)
    return np.asarray(picture) == 1
