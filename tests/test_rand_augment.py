"""The two policies against Pillow for the same draws, and their draws against the definitions."""

import functools

import jax
import numpy as np
import pytest
import scipy.stats

import pillow_rand_augment as pillow
from metasemi_jax.data.batches.rand_augment import VARIANTS, rand_augment
from metasemi_jax.data.batches.rand_augment.draws import draw_google, draw_usb, usb_box
from metasemi_jax.data.batches.rand_augment.operations import CODES, OPERATIONS
from metasemi_jax.data.batches.rand_augment.policies import augment, cutout
from metasemi_jax.data.batches.views import make_views
from test_rand_augment_operations import images_of

NAMES = list(OPERATIONS)
MANY = 20_000
# A test of a fixed key passes or fails for ever; below this a draw as rare as one in ten thousand is suspect.
RARE = 1e-4
AUGMENTED = {variant: jax.jit(functools.partial(rand_augment, variant=variant)) for variant in VARIANTS}


@pytest.mark.parametrize('shape', [(200, 32, 32, 3), (200, 28, 28, 1)])
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_policy_equals_pillow_for_the_same_draws(variant, shape):
    images, key = images_of(shape[1:], seed=3), jax.random.key(4)
    draws = jax.tree.map(np.asarray, VARIANTS[variant].draw(key, shape))
    ours = np.asarray(AUGMENTED[variant](images, key))
    assert ours.dtype == np.uint8
    expected = np.stack(
        [
            getattr(pillow, variant)(image, [NAMES[code] for code in operations], values.tolist(), box)
            for image, operations, values, box in zip(images, *draws, strict=True)
        ]
    )
    differ = (ours != expected).any((1, 2, 3))
    assert not differ.any(), f'{differ.sum()} of {len(images)} images differ'
    # Each image differs from what it was, if only by its box.
    assert (ours != images).any((1, 2, 3)).mean() > 0.95


def test_google_fills_what_moved_away_by_grey_unless_a_later_operation_made_it_black():
    image = np.full((1, 32, 32, 3), 200, np.uint8)
    empty_box = np.zeros((1, 4), np.int32)
    draws = VARIANTS['google'].draw(jax.random.key(0), image.shape)._replace(box=empty_box)

    fill = jax.jit(functools.partial(augment, variant=VARIANTS['google']))

    def after(*names_and_values):
        names, values = zip(*names_and_values, strict=True)
        codes, values = np.int32([[CODES[name] for name in names]]), np.float32([values])
        chosen = draws._replace(operation=codes, value=values)
        return np.asarray(fill(image, chosen))[0, 0, [0, 31], 0].tolist()

    assert after(('translate_x', 5), ('identity', 0)) == [200, 127]
    assert after(('translate_x', 5), ('brightness', 0.5)) == [100, 127]
    assert after(('translate_x', 5), ('posterize', 4)) == [192, 0]
    assert after(('solarize', 128), ('translate_x', 5)) == [55, 127]
    # Moved there and back.
    assert after(('translate_x', -5), ('translate_x', 5)) == [200, 127]


def test_images_of_one_batch_and_of_two_keys_have_draws_of_their_own():
    images = np.repeat(images_of((32, 32, 3))[:1], 200, axis=0)
    first, second = (np.asarray(AUGMENTED['usb'](images, jax.random.key(seed))) for seed in (0, 1))
    assert len(np.unique(first.reshape(200, -1), axis=0)) == 200
    assert not (first == second).all((1, 2, 3)).any()
    np.testing.assert_array_equal(first, AUGMENTED['usb'](images, jax.random.key(0)))


@pytest.mark.parametrize('variant', VARIANTS)
def test_float64_mode_changes_nothing(variant, x64):
    images, key = images_of((8, 8, 1))[:5], jax.random.key(0)
    here = np.asarray(AUGMENTED[variant](images, key))
    with jax.enable_x64(False):
        np.testing.assert_array_equal(here, AUGMENTED[variant](images, key))


def equally_likely(drawn, values):
    """Whether `drawn` hits each of `values` as often as the others, and nothing else."""
    found, counts = np.unique(np.asarray(drawn), return_counts=True)
    assert found.tolist() == sorted(values)
    return scipy.stats.chisquare(counts).pvalue > RARE


def test_the_draws_of_google():
    operation, value, box = map(np.asarray, draw_google(jax.random.key(5), (MANY, 32, 24, 3)))
    assert operation.shape == value.shape == (MANY, 2)
    # Half of the operations are not done; one of fourteen is the identity anyway.
    expected = np.full(14, MANY * 2 / 28)
    expected[CODES['identity']] += MANY
    assert scipy.stats.chisquare(np.bincount(operation.ravel(), minlength=14), expected).pvalue > RARE
    # Whether the first is done says nothing about the second: both are the identity with (½ + 1/28)².
    unchanged = (operation == CODES['identity']).all(1).sum()
    assert scipy.stats.binomtest(int(unchanged), MANY, (1 / 2 + 1 / 28) ** 2).pvalue > RARE
    for name in ('rotate', 'shear_y', 'translate_x'):
        levels = np.float32([pillow.google_magnitude(name, level) for level in range(1, 10)])
        assert equally_likely(value[operation == CODES[name]], [*levels, *-levels])
    factors = np.float32([pillow.google_magnitude('color', level) for level in range(1, 10)])
    assert equally_likely(value[operation == CODES['color']], factors)
    # Levels 1 to 9 give these bits and thresholds: 4 - ⌊.4·level⌋ and 256 - ⌊25.6·level⌋.
    bits, counts = np.unique(value[operation == CODES['posterize']], return_counts=True)
    assert bits.tolist() == [1, 2, 3, 4]
    assert scipy.stats.chisquare(counts, np.array([2, 3, 2, 2]) / 9 * counts.sum()).pvalue > RARE
    thresholds = [231, 205, 180, 154, 128, 103, 77, 52, 26]
    assert equally_likely(value[operation == CODES['solarize']], thresholds)
    # Centres on every row and column; a box holds 8 pixels before its centre and 8 from it on.
    centers = [np.where(box[:, side] > 0, box[:, side] + 8, box[:, side + 2] - 8) for side in (0, 1)]
    assert equally_likely(centers[0], range(32))
    assert equally_likely(centers[1], range(24))
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2:] <= (32, 24)).all()


def test_the_draws_of_usb():
    operation, value, box = map(np.asarray, draw_usb(jax.random.key(6), (MANY, 40, 32, 3)))
    assert operation.shape == (MANY, 3)
    assert equally_likely(operation, range(14))
    # The operations of one image, and of neighbours, are independent.
    for pair in (operation[:, 0] * 14 + operation[:, 1], operation[:-1, 2] * 14 + operation[1:, 2]):
        assert equally_likely(pair, range(196))
    ranges = {'rotate': (-30, 30), 'shear_x': (-0.3, 0.3), 'color': (0.05, 0.95), 'solarize': (0, 256)}
    ranges |= {'translate_x': (-0.3 * 32, 0.3 * 32), 'translate_y': (-0.3 * 40, 0.3 * 40)}
    for name, (low, high) in ranges.items():
        drawn = value[operation == CODES[name]]
        assert scipy.stats.kstest(drawn, scipy.stats.uniform(low, high - low).cdf).pvalue > RARE, name
    assert equally_likely(value[operation == CODES['posterize']], [4, 5, 6, 7])
    # A box of ⌊v⌋ + 1 pixels, v uniform up to 16; those that the border does not cut.
    # (One in 2**15 has no side, and no pixel.)
    whole = (box[:, :2] > 0).all(1) & (box[:, 2:] < (40, 32)).all(1) & (box[:, 2] > box[:, 0])
    assert set((box[whole, 3] - box[whole, 1]).tolist()) == set(range(1, 17))


def test_usb_boxes_equal_its_rectangles():
    rng = np.random.default_rng(0)
    for height, width in ((32, 32), (28, 20), (96, 224)):
        side, point = rng.integers(0, 1 << 15, (500, 1)), rng.integers(0, 1 << 15, (500, 2))
        side[:3], point[3:6], side[6:9] = 0, [[0, 0], [0, 32767], [32767, 32767]], 1
        boxes = usb_box(np.int32(side), np.int32(point), height, width)
        black = np.zeros((500, height, width, 1), np.uint8)
        ours = np.asarray(cutout(black, boxes, (255, 255, 255)))[..., 0] == 255
        for i in range(500):
            y, x = (size - (size - 1) * p / 2**15 for size, p in zip((height, width), point[i], strict=True))
            expected = pillow.usb_cutout((height, width), side[i, 0] * width / 2**16, x, y)
            np.testing.assert_array_equal(ours[i], expected)


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_strong_view_is_rand_augment_of_a_weak_one(variant):
    images, key = images_of((8, 8, 1))[:5], jax.random.key(0)
    views = make_views(pad=0, flip=False, mean=(0.5,), std=(0.5,), second='strong', strong=variant)
    expected = AUGMENTED[variant](images, jax.random.split(key)[1])
    np.testing.assert_array_equal(jax.jit(views.second)(images, key), expected)


def test_wrong_images_and_variants_are_refused():
    image = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r'takes uint8 \[B, H, W, 1 or 3\], not float32 \(1, 4, 4, 3\)'):
        rand_augment(image.astype(np.float32), jax.random.key(0), variant='usb')
    with pytest.raises(ValueError, match=r'not uint8 \(1, 4, 4, 2\)'):
        rand_augment(image[..., :2], jax.random.key(0), variant='usb')
    with pytest.raises(ValueError, match="unknown variant of RandAugment 'autoaugment'; known: google, usb"):
        rand_augment(image, jax.random.key(0), variant='autoaugment')
