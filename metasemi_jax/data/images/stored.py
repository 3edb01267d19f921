"""Lazy images: they stay on disk and are decoded when they are needed."""

import copy
from typing import Any, BinaryIO, Protocol

import numpy as np

from metasemi_jax.data.images.parallel import in_threads
from metasemi_jax.data.images.random_resized_crop import CropRange
from metasemi_jax.errors import as_user_error


class Storage(Protocol):
    """Encoded images by number, as `ImageFiles` and `ImageRecords` hold them; picklable."""

    def open(self, i: int) -> BinaryIO:
        """Open the encoded image `i`."""

    def name(self, i: int) -> str:
        """Name of image `i` in messages."""


class StoredImages:
    """As an array, uint8 [N, size, size, C], whose entries are decoded when NumPy asks for them.

    `images[positions]` is lazy too; `np.asarray(images[positions])` decodes these, in parallel threads.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, storage: Storage, count: int, size: int, *, colour: bool, resize: int = 0):
        """The images 0 to `count` of `storage`; `size`, `resize` and `colour` as for `decode_square`."""
        self._storage, self._size, self._resize, self._colour = storage, size, resize, colour
        self._positions = np.arange(count, dtype=np.int32)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, H, W, C]."""
        return (len(self), self._size, self._size, 3 if self._colour else 1)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, positions: slice | np.ndarray) -> 'StoredImages':
        chosen = copy.copy(self)
        chosen._positions = self._positions[positions]
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError('decoding makes new pixels')
        images = np.empty(self.shape, np.uint8)
        for i, pixels in enumerate(in_threads(self.decode, range(len(self)))):
            images[i] = pixels
        return images if dtype is None else images.astype(dtype)

    def decode(self, i: int) -> np.ndarray:
        """The middle square of image `i`: uint8 [size, size, C]."""
        return self._decode(i, 'decode_square', self._size, resize=self._resize, colour=self._colour)

    def decode_crop(self, i: int, rng: np.random.Generator, crop: CropRange, *, flip: bool) -> np.ndarray:
        """A random part of image `i`, perhaps mirrored: uint8 [size, size, C]."""
        return self._decode(i, 'decode_crop', self._size, rng, crop, flip=flip, colour=self._colour)

    def _decode(self, i: int, function: str, *args: Any, **kwargs: Any) -> np.ndarray:
        # Imported here: it loads Pillow, which images in memory do without.
        from metasemi_jax.data.images import decode as image_decode

        number = int(self._positions[i])

        def gone(error: Exception) -> str:
            unread = f'{self._storage.name(number)} cannot be read any more ({image_decode.reason(error)})'
            return f'{unread}; put it back, and the same command continues'

        # Pillow fails on damaged files with SyntaxError, struct.error and others.
        with as_user_error(Exception, gone), self._storage.open(number) as file:
            return getattr(image_decode, function)(file, *args, **kwargs)
