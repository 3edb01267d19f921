"""Each operation against Pillow, bit for bit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

from metasemi_jax.data.batches.rand_augment import geometry, lookups, tables
from metasemi_jax.data.batches.rand_augment.blending import blend, smooth
from metasemi_jax.data.batches.rand_augment.layer import apply
from metasemi_jax.data.batches.rand_augment.operations import CODES, OPERATIONS
from pillow_rand_augment import PILLOW, google_magnitude, pillow_operation

COUNT = 200
# Least and most of USB, and steps of a power of two as it draws them.
FACTOR = (0.05, 0.95, 2**16)
USB = {
    **dict.fromkeys(('brightness', 'contrast', 'color', 'sharpness'), FACTOR),
    **dict.fromkeys(('shear_x', 'shear_y'), (-0.3, 0.3, 2**16)),
    **dict.fromkeys(('translate_x', 'translate_y'), (-12, 12, 2**12)),
    'posterize': (4, 8, 1),
    'solarize': (0, 256, 2**16),
    'rotate': (-30, 30, 2**12),
}


def images_of(shape, seed=0):
    """COUNT images: noise of any contrast, smooth ones, of few or extreme levels, constant ones."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    y, x = np.mgrid[:height, :width, :1][:2] / max(height, width)
    images = np.empty((COUNT, *shape), np.uint8)
    for i in range(COUNT):
        noise = rng.integers(0, 256, shape)
        wave = np.sin(x * rng.uniform(0, 7, channels) + y * rng.uniform(0, 7, channels) + rng.uniform(0, 7))
        images[i] = (
            noise,
            (noise * rng.uniform(0, 1) + rng.uniform(0, 150)).clip(0, 255),
            127 + 90 * wave + rng.uniform(-20, 20),
            rng.choice([0, 255, rng.integers(256)], shape),
            np.broadcast_to(rng.integers(0, 256, channels), shape),
        )[i % 5]
    return images


def magnitudes(name, variant, seed=1):
    """COUNT values as Python floats."""
    rng = np.random.default_rng(seed)
    if variant == 'google':
        signed = name in ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')
        values = [google_magnitude(name, 1 + i % 9) for i in range(COUNT)]
        return [-value if signed and i % 2 else value for i, value in enumerate(values)]
    low, high, steps = USB.get(name, (0, 1, 1))
    return [i / steps for i in rng.integers(round(low * steps), round(high * steps), COUNT)]


@functools.partial(jax.jit, static_argnames='channels')
def applied(images, code, values, channels):
    return apply(images, jnp.full(len(images), code), values, channels=channels)


def all_operations(images, values):
    values = {name: np.float32(value) for name, value in values.items()}
    return {name: applied(images, CODES[name], values[name], images.shape[-1]) for name in OPERATIONS}


@pytest.mark.parametrize('shape', [(32, 32, 3), (28, 28, 1), (19, 40, 3), (2, 3, 1)])
def test_every_operation_equals_pillow(shape):
    images = images_of(shape)
    for variant in ('google', 'usb'):
        values = {name: magnitudes(name, variant) for name in OPERATIONS}
        ours = all_operations(images, values)
        for name in PILLOW:
            pairs = zip(images, values[name], strict=True)
            expected = np.stack([pillow_operation(name, image, value) for image, value in pairs])
            differ = (np.asarray(ours[name]) != expected).any((1, 2, 3))
            assert not differ.any(), f'{variant} {name}: {differ.sum()} of {COUNT} images differ'


def test_the_operations_do_something():
    # Else the test above could compare two identities.
    images = images_of((32, 32, 3))[1::5]
    ours = all_operations(images, {name: magnitudes(name, 'google')[1::5] for name in OPERATIONS})
    for name, changed in ours.items():
        share = (np.asarray(changed) != images).any((1, 2, 3)).mean()
        assert share == 0 if name == 'identity' else share > 0.5, name


@pytest.mark.parametrize('max_strip', [1 << 15, 5 * 6 * 7 * 2, 1])
def test_the_forms_for_tpus_look_up_the_same(monkeypatch, max_strip):
    """All rows of the result at once, some at a time with some left over, one at a time."""
    monkeypatch.setattr(lookups, 'MAX_STRIP', max_strip)
    rng = np.random.default_rng(0)
    image, table = (
        jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in ((6, 7, 3), (3, 512))
    )
    y, x = (jnp.asarray(rng.integers(0, size, (5, 7)), jnp.int32) for size in image.shape[:2])
    equal = np.testing.assert_array_equal
    equal(lookups.take_by_products(image, y, x), image[y, x])
    equal(lookups.take_by_gather(image, y, x), image[y, x])
    for places in (image, 2 * image.astype(jnp.int32)):
        looked_up = np.stack([table[c, places[..., c]] for c in range(3)], -1)
        equal(lookups.look_up_by_products(table, places), looked_up)
        equal(lookups.look_up_by_gather(table, places), looked_up)
    pixels = jnp.concatenate([image.reshape(-1, 3), jnp.full((300, 3), 7, jnp.uint8)])
    counts = np.stack([np.bincount(pixels[:, c], minlength=256) for c in range(3)])
    equal(lookups.count_by_products(pixels), counts)
    equal(lookups.count_by_scatter(pixels), counts)


@pytest.mark.parametrize('opaque', [False, True])
def test_a_batch_of_operations_equals_each_alone(opaque):
    images = images_of((20, 24, 3))
    operation = np.arange(COUNT, dtype=np.int32) % len(OPERATIONS)
    names = list(OPERATIONS)
    value = np.float32([magnitudes(names[code], 'google')[i] for i, code in enumerate(operation)])
    opacity = np.full((*images.shape[:3], 1), 255, np.uint8)
    given = np.concatenate([images, opacity], -1) if opaque else images
    ours = np.asarray(jax.jit(functools.partial(apply, channels=3))(given, operation, value))
    for image, code, one, whole in zip(images, operation, value, ours, strict=True):
        np.testing.assert_array_equal(whole[..., :3], pillow_operation(names[code], image, float(one)))
    # Only what moves the picture makes any of it transparent.
    if opaque:
        moves = np.isin(operation, [CODES[name] for name in CODES if name[:5] in ('rotat', 'shear', 'trans')])
        np.testing.assert_array_equal((ours[..., 3] == 0).any((1, 2)), moves)


@pytest.mark.parametrize('fused', [True, False])
def test_blend_of_every_pair_of_levels(fused):
    """65,536 pairs for each factor, in one program, where XLA may fuse, and operation by operation."""
    first, second = (level.astype(np.uint8) for level in np.mgrid[:256, :256])
    drawn = np.random.default_rng(0).uniform(0, 2, 20)
    factors = np.float32([*(google_magnitude('color', level) for level in range(1, 10)), 0, 1, *drawn])
    blended = jax.jit(blend) if fused else blend
    for factor in factors:
        expected = Image.blend(Image.fromarray(first), Image.fromarray(second), float(factor))
        np.testing.assert_array_equal(blended(first, second, factor), expected, err_msg=f'{factor}')


def test_autocontrast_of_every_darkest_and_brightest_level():
    """Pillow's float64 makes 12,094 of the levels that come out exact one darker; ours the same."""
    low, high = np.triu_indices(256, 1)
    images = np.stack([low, high], -1)[:, None, :, None].astype(np.uint8)
    ours = np.asarray(jax.jit(jax.vmap(tables.autocontrast))(images))[:, 0]
    scale = 255.0 / (high - low)
    level = np.arange(256) * scale[:, None] + (-low * scale)[:, None]
    between = (np.arange(256) >= low[:, None]) & (np.arange(256) <= high[:, None])
    expected = np.clip(level.astype(int), 0, 255)
    assert (ours == expected)[between].all()
    exact = 255 * (np.arange(256) - low[:, None]) // (high - low)[:, None]
    assert (exact != expected)[between].sum() == 12_094


def test_smooth_equals_pillow():
    images = images_of((32, 32, 1))
    ours = jax.jit(jax.vmap(smooth))(images)[..., 0]
    expected = [Image.fromarray(image[..., 0]).filter(ImageFilter.SMOOTH) for image in images]
    np.testing.assert_array_equal(ours, np.stack([np.asarray(image) for image in expected]))


def rotation_in_float64(degrees, height, width):
    """What Pillow computes in `Image.rotate` and `ImagingTransformAffine`."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    minus_sin = round(-math.sin(angle), 15)
    c = cos * (-width / 2) + sin * (-height / 2) + 0.0 + width / 2
    f = minus_sin * (-width / 2) + cos * (-height / 2) + 0.0 + height / 2
    offsets = c + cos * 0.5 + sin * 0.5, f + minus_sin * 0.5 + cos * 0.5
    return [math.floor(v * 65536.0 + 0.5) for v in (cos, sin, offsets[0], minus_sin, cos, offsets[1])]


def test_every_angle_of_usb_has_pillows_coefficients():
    degrees = np.arange(-30 * 4096, 30 * 4096 + 1, 3) / 4096
    ours = jax.jit(jax.vmap(lambda angle: geometry.rotate(angle, 32, 32)))(np.float32(degrees))
    expected = [rotation_in_float64(angle, 32, 32) for angle in degrees]
    np.testing.assert_array_equal(ours, expected)


def test_rotations_of_large_images_are_off_by_one_fixed_point_unit_at_most():
    """The one place where rounding differs: a few of a million coefficients, by 1/65536 pixel."""
    degrees = np.random.default_rng(0).integers(-30 * 4096, 30 * 4096, 20_000) / 4096
    ours = jax.jit(jax.vmap(lambda angle: geometry.rotate(angle, 1000, 3000)))(np.float32(degrees))
    difference = np.abs(np.asarray(ours) - [rotation_in_float64(angle, 1000, 3000) for angle in degrees])
    assert difference.max() <= 1
    assert difference.sum() <= 3


@pytest.mark.parametrize('name', ['shear_x', 'translate_x', 'solarize'])
def test_magnitudes_off_the_grid_and_at_halves(name):
    images = images_of((16, 16, 3))[:40]
    drawn = np.random.default_rng(2).uniform(-0.9, 0.9, 20)
    scale = {'shear_x': 1, 'translate_x': 10, 'solarize': 100}[name]
    values = np.float32([*(drawn * scale), *(np.arange(-10, 10) / 2)])
    ours = applied(images, CODES[name], values, 3)
    expected = [pillow_operation(name, image, float(v)) for image, v in zip(images, values, strict=True)]
    np.testing.assert_array_equal(ours, np.stack(expected))
