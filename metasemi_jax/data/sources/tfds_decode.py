"""From a dataset that TFDS has prepared to arrays."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from metasemi_jax.errors import UserError

SPLITS = ('train', 'test')
READ_TOGETHER = 500  # records


def decode(builder: Any, count: Callable[[int], None]) -> dict[str, np.ndarray]:
    """Read a prepared dataset, and put it in the order of its ids.

    Args:
      builder: of `stock_builder`.
      count: called for each image, with their number.

    Returns:
      For 'train' and 'test': SPLIT_images uint8 [N, H, W, C], SPLIT_labels int32 [N], SPLIT_ids str [N].

    Raises:
      UserError: a prepared file is damaged.
    """
    total = sum(builder.info.splits[split].num_examples for split in SPLITS)
    arrays = {}
    for split in SPLITS:
        try:
            arrays |= _decode_split(builder, split, lambda: count(total))
        # array_record, protobuf and PIL fail on damaged bytes in a dozen ways.
        except Exception as error:
            raise UserError(
                f'{builder.name}: {builder.data_dir} is damaged ({" ".join(str(error).split())}); '
                'delete that folder, and it is prepared again'
            ) from error
    return arrays


def _decode_split(builder: Any, split: str, count: Callable[[], None]) -> dict[str, np.ndarray]:
    import tensorflow_datasets as tfds
    from PIL import Image

    # PNGs are decoded here: TFDS would use OpenCV where it is installed, and complain where it is not.
    source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
    images = np.empty((len(source), *builder.info.features['image'].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    ids = []
    for start in range(0, len(source), READ_TOGETHER):
        together = range(start, min(start + READ_TOGETHER, len(source)))
        for i, example in zip(together, source.__getitems__(together), strict=True):
            count()
            images[i] = np.asarray(Image.open(io.BytesIO(example['image'])))
            labels[i] = example['label']
            ids.append(example['id'].decode())
    if len(set(ids)) != builder.info.splits[split].num_examples:
        raise ValueError(f'{len(set(ids))} different ids in {split}')
    order = np.argsort(ids)
    return {
        f'{split}_images': images[order],
        f'{split}_labels': labels[order],
        f'{split}_ids': np.array(ids)[order],
    }
