"""Images for TensorBoard: the views of the first batch, and predictions at the end."""

import io
import struct

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from metasemi_jax.batch import Batch
from metasemi_jax.data.batches.augment import normalize
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.training.image_log import LOOKED_AT, prediction_sheets, view_sheets
from metasemi_jax.training.loop import train_and_evaluate
from small_runs import assert_same_state, read_log, read_state, tiny_config


def logged_images(workdir):
    """[(step, tag, pixels)] of the event files, read without TensorFlow."""
    found = []
    for path in sorted(workdir.glob('events*')):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (size,) = struct.unpack('<Q', content[start : start + 8])
            event = Event.FromString(content[start + 12 : start + 12 + size])
            start += size + 16
            for value in event.summary.value:
                if value.WhichOneof('value') == 'image':
                    image = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
                    assert image.shape == (value.image.height, value.image.width, value.image.colorspace)
                    found.append((event.step, value.tag, image))
    return found


def test_a_run_logs_its_views_and_its_predictions_and_trains_the_same(tmp_path):
    config = tiny_config(total_steps=4, eval_every=4, checkpoint_every=4, optimizer__milestones=(3, 4))
    train_and_evaluate(config, tmp_path / 'without')
    train_and_evaluate(config, tmp_path / 'with', log_images=True)
    assert_same_state(read_state(tmp_path / 'without'), read_state(tmp_path / 'with'))
    assert read_log(tmp_path / 'without') == read_log(tmp_path / 'with')
    assert logged_images(tmp_path / 'without') == []
    images = logged_images(tmp_path / 'with')
    assert [(step, tag) for step, tag, _ in images] == [
        (0, 'views/labeled'),
        (0, 'views/unlabeled'),
        (4, 'predictions/test_most_confident_mistakes'),
        (4, 'predictions/unlabeled_surest_and_least_sure'),
    ]
    assert all(np.ptp(pixels) > 200 for _, _, pixels in images)


def test_views_are_the_pixels_that_were_normalised():
    form = InputSpec((12, 12, 1), (0.3,), (0.2,))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 1), np.uint8)

    def to_batch(device_data, rows, key):
        images = normalize(rows, mean=form.mean, std=form.std)
        return Batch(images, rows[:, 0, 0, 0], images[:1], strong_images=None)

    sheets = view_sheets(to_batch, (), pixels, form, None)
    assert sheets.keys() == {'views/labeled', 'views/unlabeled'}
    sheet = sheets['views/labeled']
    # Each pixel eight times as large, an image after the other.
    np.testing.assert_array_equal(sheet[:96:8, :96:8, 0], pixels[0, ..., 0])
    np.testing.assert_array_equal(sheet[:96:8, 100:196:8, 2], pixels[1, ..., 0])
    assert sheet.shape[1] == 200


def test_mistakes_by_confidence_and_both_ends_of_the_unlabeled():
    count = 40
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 96, 96, 3), np.uint8)
    probs = np.stack([np.linspace(0.5, 0.9, count), np.linspace(0.5, 0.1, count)], axis=1)
    labels = np.array([1, 0, -1, 1] + [0] * 36)
    examples = {'test': (images, labels), 'unlabeled': (images, np.full(count, -1))}
    sheets = prediction_sheets(lambda images: probs[images[:, 0, 0, 0]], examples, ('cat', '猫' * 40))
    mistakes, ends = sheets.values()

    def shown(sheet, columns, row=0):
        step = (sheet.shape[0] // 2) * row
        return [int(sheet[step, 100 * i, 0]) for i in range(columns)]

    assert shown(mistakes, 2) == [3, 0]
    assert shown(ends, 8) == list(range(39, 31, -1))
    assert shown(ends, 8, row=1) == list(range(7, -1, -1))
    assert not prediction_sheets(lambda images: probs, {'test': (images, labels * 0)}, ('cat', 'dog'))
    assert LOOKED_AT >= 100
