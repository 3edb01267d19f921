"""Encoded images in array_record files that TFDS has prepared."""

import io
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np

from metasemi_jax.data.images.parallel import in_threads
from metasemi_jax.errors import UserError, first_ten


class ImageRecords:
    """The images of one split, by their place in the files. Picklable: a worker opens the files itself."""

    def __init__(self, builder: Any, split: str):
        """`builder`: of TFDS, prepared."""
        import tensorflow_datasets as tfds

        # Encoded as they are: decoding is ours, and TFDS would use OpenCV where it is installed.
        self._source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
        self._called = f'{builder.name}, {split}, record'

    def __len__(self) -> int:
        return len(self._source)

    def example(self, i: int) -> dict[str, Any]:
        """All features of record `i`; 'image' is its bytes."""
        return self._source[i]

    def open(self, i: int) -> BinaryIO:
        """Open the encoded image `i`."""
        return io.BytesIO(self._source[i]['image'])

    def name(self, i: int) -> str:
        """Name of image `i` in messages."""
        return f'{self._called} {i}'


def index_records(builder: Any, splits: Sequence[str], count: Callable[[int], None]) -> dict[str, np.ndarray]:
    """File names and labels in the stored order; reads, and decodes in small, every image once.

    Args:
      builder: a TFDS builder, prepared, with the features 'image', 'label' and 'file_name'.
      splits: names of the splits to read.
      count: called for each image, with their number.

    Returns:
      For each split: SPLIT_labels int32 [N] and SPLIT_ids str [N].

    Raises:
      UserError: images that cannot be decoded; all of them are counted, the first ten named.
    """
    records = {split: ImageRecords(builder, split) for split in splits}
    total = sum(map(len, records.values()))
    arrays, bad = {}, []
    for split, of_split in records.items():
        labels = np.empty(len(of_split), np.int32)
        ids = []
        looked_at = in_threads(lambda i, source=of_split: _look_at(source, i), range(len(of_split)))
        for i, (name, label, trouble) in enumerate(looked_at):
            count(total)
            labels[i] = label
            ids.append(name)
            if trouble:
                bad.append(f'{name.decode()} ({trouble})')
        arrays |= {f'{split}_labels': labels, f'{split}_ids': np.array(ids).astype(str)}
    if bad:
        raise UserError(
            f'{builder.name}: {len(bad):,} of {total:,} images cannot be read: {first_ten(bad)}; delete '
            f'{builder.data_dir} and prepare it again from whole archives'
        )
    return arrays


def _look_at(records: ImageRecords, i: int) -> tuple[bytes, int, str]:
    from metasemi_jax.data.images.decode import check_image, reason

    try:
        example = records.example(i)
    # array_record and protobuf fail on damaged bytes in several ways.
    except Exception as error:
        return b'?', -1, f'record {i}: {reason(error)}'
    try:
        check_image(io.BytesIO(example['image']))
        trouble = ''
    # Pillow fails on damaged bytes in several ways too.
    except Exception as error:
        trouble = reason(error)
    return example['file_name'], example['label'], trouble
