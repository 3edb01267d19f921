"""Encoded images in array_record files that TFDS has prepared."""

import io
from typing import Any, BinaryIO


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
