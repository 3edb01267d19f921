"""From original archives, or a dataset that TFDS has prepared, to arrays in the order of the archives."""

import functools
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from metasemi_jax.data.sources.archives import ArchiveSplit
from metasemi_jax.data.sources.tfds_recipes import TfdsRecipe
from metasemi_jax.errors import as_user_error

READ_TOGETHER = 500  # records


def from_archives(
    splits: Mapping[str, ArchiveSplit], recipe: TfdsRecipe, count: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Copy the splits of an archive into the arrays that `decode` returns.

    Args:
      splits: contents of the archives of `recipe`, by TFDS's names of the splits.
      count: called for each image, with their number.
    """

    def read(split: str) -> Iterator[_Example]:
        labels = splits[split].labels['label']
        yield from (_Example(i, labels[i], image) for i, image in enumerate(splits[split].images))

    return _arrays({split: len(splits[split].images) for split in splits}, recipe, read, count)


def decode(
    builder: Any, recipe: TfdsRecipe, count: Callable[[int], None], *, pixels: bool = True
) -> dict[str, np.ndarray]:
    """Read a prepared dataset, and put it in the order of its ids.

    Args:
      builder: as `stock_builder` returns it.
      count: called for each image, with their number.
      pixels: False returns the numbers of the records that hold the images, instead of the images.

    Returns:
      For 'train' and 'test': SPLIT_labels int32 [N], SPLIT_ids str [N] and SPLIT_images uint8 [N, H, W, C] or
      SPLIT_records int32 [N], numbers in the splits of `recipe` put end to end.

    Raises:
      UserError: a prepared file is damaged.
    """
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    # array_record, protobuf and PIL fail on damaged bytes in a dozen ways.
    with as_user_error(
        Exception,
        lambda error: (
            f'{builder.name}: {builder.data_dir} is damaged ({" ".join(str(error).split())}); '
            'delete that folder, and it is prepared again'
        ),
    ):
        return _arrays(sizes, recipe, functools.partial(_read_prepared, builder, recipe, pixels), count)


def num_images(builder: Any, recipe: TfdsRecipe) -> int:
    """Number of training and test images in a prepared dataset."""
    return sum(builder.info.splits[split].num_examples for split in (*recipe.training, 'test'))


def bytes_of(builder: Any, count: int) -> int:
    """Bytes of `count` decoded images of the dataset of `builder`, prepared or not."""
    return count * int(np.prod(builder.info.features['image'].shape))


def _parts(recipe: TfdsRecipe) -> dict[str, tuple[str, ...]]:
    return {'train': recipe.training, 'test': ('test',)}


class _Example(NamedTuple):
    position: int  # in the original file
    label: int
    image: Any  # uint8 [H, W, C]; or the number of its record in the split


def _arrays(
    sizes: Mapping[str, int],
    recipe: TfdsRecipe,
    read: Callable[[str], Iterable[_Example]],
    count: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """The arrays of `decode` from what `read` yields of each split, each example at its position."""
    total = sum(sizes[split] for splits in _parts(recipe).values() for split in splits)
    arrays = {}
    for name, splits in _parts(recipe).items():
        size, longest = sum(sizes[split] for split in splits), max(map(len, splits)) + 1 + recipe.id_digits
        labels, ids = np.empty(size, np.int32), np.empty(size, f'<U{longest}')
        images, start = None, 0
        for split in splits:
            filled = np.zeros(sizes[split], bool)
            for position, label, image in read(split):
                count(total)
                filled[position] = True
                place = start + position
                labels[place], ids[place] = label, f'{split}_{position:0{recipe.id_digits}d}'
                if images is None:
                    images = np.empty((size, *np.shape(image)), np.uint8 if np.ndim(image) else np.int32)
                images[place] = image if images.ndim > 1 else start + image
            if not filled.all():
                raise ValueError(f'{filled.sum()} different ids in {split}')
            start += sizes[split]
        kind = 'images' if images.ndim > 1 else 'records'
        arrays |= {f'{name}_{kind}': images, f'{name}_labels': labels, f'{name}_ids': ids}
    return arrays


def _read_prepared(builder: Any, recipe: TfdsRecipe, pixels: bool, split: str) -> Iterator[_Example]:
    """The records of `split` as they are stored."""
    import tensorflow_datasets as tfds

    from metasemi_jax.data.images.decode import open_image

    # PNGs are decoded here: TFDS would use OpenCV where it is installed, and complain where it is not.
    source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
    order = None if recipe.has_ids else stored_order(split, len(source))
    for start in range(0, len(source), READ_TOGETHER):
        together = range(start, min(start + READ_TOGETHER, len(source)))
        for i, example in zip(together, source.__getitems__(together), strict=True):
            position = int(example['id'].rpartition(b'_')[2]) if order is None else int(order[i])
            image = i
            if pixels:
                image = np.asarray(open_image(io.BytesIO(example['image'])))
                image = image.reshape(builder.info.features['image'].shape)
            yield _Example(position, example['label'], image)


def stored_order(split: str, count: int) -> np.ndarray:
    """Positions in the original file of each record of `split`, int [count].

    TFDS's builders of these datasets give an example its position for a key, and TFDS sorts a split by the
    MD5 of the split's name and the key; its versions promise this order.
    """
    from tensorflow_datasets.core.hashing import Hasher

    hasher = Hasher(split)
    return np.array(sorted(range(count), key=hasher.hash_key), np.int32)
