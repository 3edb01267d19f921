"""Images for TensorBoard: the views of the first step, and predictions after the last one."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metasemi_jax.batch import Batch
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.data.splits import Split
from metasemi_jax.training.experiment_data import eval_images

VIEWED = 8  # images of a batch
LOOKED_AT = 512  # images of a pool that the network classifies at the end
SHOWN = 16  # of them
COLUMNS = 8
SIDE = 96  # pixels of an image in a sheet, at least
TEXT = 12  # pixels of a line
GAP = 4

Examples = tuple[np.ndarray, np.ndarray]  # uint8 [n, H, W, C], int [n] labels, -1 where not known


def first_rows(host_batch: Any) -> Any:
    """What the host sends for the first `VIEWED` labeled and unlabeled images of a step."""
    return jax.tree.map(lambda x: x[:VIEWED], host_batch)


def view_sheets(to_batch: Callable, device_data: Any, rows: Any, spec: InputSpec, key: Any) -> dict:
    """{tag: uint8 [H, W, 3]}: the views of `first_rows` that a step sees, one sheet for each kind."""
    batch: Batch = jax.jit(to_batch)(device_data, rows, key)
    views = {
        'views/labeled': batch.labeled_images,
        'views/unlabeled': batch.unlabeled_images,
        'views/unlabeled_second': batch.strong_images,
    }
    return {
        tag: _sheet([(image, ()) for image in _pixels(np.asarray(images, np.float32), spec)])
        for tag, images in views.items()
        if images is not None and len(images)
    }


def example_images(dataset: Any, split: Split, unlabeled: np.ndarray) -> Callable[[], dict[str, Examples]]:
    """() -> at most `LOOKED_AT` unlabeled and test (or validation) images, the same in every run."""

    def pick(images: Any, labels: np.ndarray, positions: np.ndarray) -> Examples:
        chosen = np.random.default_rng(0).permutation(len(positions))[:LOOKED_AT]
        positions = positions[np.sort(chosen)]
        return np.asarray(images[positions]), labels[positions]

    def examples() -> dict[str, Examples]:
        judged = eval_images(dataset, split)
        if 'test' in judged:
            judged.pop('validation', None)
        found = {name: pick(*pair, np.arange(len(pair[1]))) for name, pair in judged.items()}
        if len(unlabeled):
            found['unlabeled'] = pick(dataset.train_images, dataset.train_labels, unlabeled)
        return found

    return examples


def prediction_sheets(
    predict: Callable[[np.ndarray], np.ndarray], examples: dict[str, Examples], class_names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """{tag: uint8 [H, W, 3]}: the most confident mistakes, and the surest and the least sure pseudo-labels.

    Args:
      predict: uint8 [n, H, W, C] -> probabilities [n, K].
      examples: what a function of `example_images` returns.
    """
    names = [_drawable(name, k) for k, name in enumerate(class_names)]
    sheets = {}
    for split, (images, labels) in examples.items():
        probs = np.asarray(predict(images), np.float32)
        classes, confidence = probs.argmax(axis=-1), probs.max(axis=-1)
        order = np.argsort(-confidence, kind='stable')
        if split == 'unlabeled':
            ends = order if len(order) <= SHOWN else np.r_[order[: SHOWN // 2], order[-(SHOWN // 2) :]]
            words = [[f'{names[classes[i]]}, {100 * confidence[i]:.0f}%'] for i in ends]
            tag = 'predictions/unlabeled_surest_and_least_sure'
        else:
            ends = order[((labels >= 0) & (classes != labels))[order]][:SHOWN]
            words = [
                [f'is {names[labels[i]]}', f'net: {names[classes[i]]}, {100 * confidence[i]:.0f}%']
                for i in ends
            ]
            tag = f'predictions/{split}_most_confident_mistakes'
        if len(ends):
            sheets[tag] = _sheet(list(zip(images[ends], words, strict=True)))
    return sheets


def _pixels(images: np.ndarray, spec: InputSpec) -> np.ndarray:
    """uint8 of normalised images."""
    scaled = 255 * (images * np.asarray(spec.std, np.float32) + np.asarray(spec.mean, np.float32))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _sheet(cells: list[tuple[np.ndarray, Any]]) -> np.ndarray:
    """Images, enlarged by whole factors, with their lines of text below them."""
    height, width = cells[0][0].shape[:2]
    factor = -(-SIDE // max(height, width))
    lines = max(len(words) for _, words in cells)
    step_x, step_y = factor * width + GAP, factor * height + GAP + lines * (TEXT + 2)
    columns = min(COLUMNS, len(cells))
    sheet = Image.new('RGB', (columns * step_x, -(-len(cells) // columns) * step_y), 'white')
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT - 1)
    for number, (pixels, words) in enumerate(cells):
        x, y = number % columns * step_x, number // columns * step_y
        image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        sheet.paste(image.resize((factor * width, factor * height), Image.Resampling.NEAREST), (x, y))
        for i, line in enumerate(words):
            text = _fitted(line, lambda text: draw.textlength(text, font), factor * width)
            draw.text((x, y + factor * height + i * (TEXT + 2)), text, 'black', font)
    return np.asarray(sheet)


def _fitted(text: str, width: Callable[[str], float], pixels: int) -> str:
    """`text` with its middle cut out until it fits; the ends hold class and probability."""
    fitting = text
    for cut in range(1, len(text) - 4):
        if width(fitting) <= pixels:
            break
        head = (len(text) - cut) // 2
        fitting = f'{text[:head]}…{text[head + cut :]}'
    return fitting


def _drawable(name: str, number: int) -> str:
    # Pillow's own font has Latin letters alone; report.html draws every other script.
    return name if name.isprintable() and all(ord(c) < 0x180 for c in name) else f'class {number}'
