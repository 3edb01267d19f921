"""From original archives, or a dataset that TFDS has prepared, to arrays in the order of the archives."""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from metasemi_jax.data.sources.archives import ArchiveSplit
from metasemi_jax.data.sources.tfds_recipes import TfdsRecipe
from metasemi_jax.errors import UserError

READ_TOGETHER = 500  # records


def from_archives(
    splits: Mapping[str, ArchiveSplit], recipe: TfdsRecipe, count: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Copy the splits of an archive into arrays.

    Args:
      splits: contents of the archives of `recipe`, by TFDS's names of the splits.
      count: called for each image, with their number.

    Returns:
      The arrays that `decode` returns for the dataset that TFDS would prepare of these archives.
    """
    total = archive_images(splits, recipe)
    arrays = {}
    for name, parts in _parts(recipe).items():
        pixels, position = None, 0
        labels, ids = _empty_labels(sum(len(splits[part].images) for part in parts), recipe)
        for part in parts:
            for i, image in enumerate(splits[part].images):
                count(total)
                if pixels is None:
                    pixels = np.empty((len(labels), *image.shape), np.uint8)
                pixels[position] = image
                labels[position] = splits[part].labels['label'][i]
                ids[position] = _id(part, i, recipe)
                position += 1
        arrays |= {f'{name}_images': pixels, f'{name}_labels': labels, f'{name}_ids': ids}
    return arrays


def archive_images(splits: Mapping[str, ArchiveSplit], recipe: TfdsRecipe) -> int:
    """Number of training and test images in the archives of `recipe`."""
    return sum(len(splits[part].images) for parts in _parts(recipe).values() for part in parts)


def decode(
    builder: Any, recipe: TfdsRecipe, count: Callable[[int], None], *, pixels: bool = True
) -> dict[str, np.ndarray]:
    """Read a prepared dataset, and put it in the order of its ids.

    Args:
      builder: as `stock_builder` returns it.
      count: called for each image, with their number.
      pixels: False returns the numbers of the records that hold the images, in the place of the images.

    Returns:
      For 'train' and 'test': SPLIT_labels int32 [N], SPLIT_ids str [N] and SPLIT_images uint8 [N, H, W, C] or
      SPLIT_records int32 [N], numbers in the splits of `recipe` put end to end.

    Raises:
      UserError: a prepared file is damaged.
    """
    sizes = {split: builder.info.splits[split].num_examples for split in (*recipe.training, 'test')}
    total = sum(sizes.values())
    arrays = {}
    for name, splits in _parts(recipe).items():
        whole = _empty(builder, sum(sizes[split] for split in splits), recipe, pixels=pixels)
        start = 0
        for split in splits:
            part = slice(start, start + sizes[split])
            try:
                _fill(builder, split, recipe, [array[part] for array in whole], lambda: count(total))
            # array_record, protobuf and PIL fail on damaged bytes in a dozen ways.
            except Exception as error:
                raise UserError(
                    f'{builder.name}: {builder.data_dir} is damaged ({" ".join(str(error).split())}); '
                    'delete that folder, and it is prepared again'
                ) from error
            if not pixels:
                whole[0][part] += start
            start = part.stop
        images, labels, ids = whole
        arrays |= {f'{name}_images' if pixels else f'{name}_records': images}
        arrays |= {f'{name}_labels': labels, f'{name}_ids': ids}
    return arrays


def num_images(builder: Any, recipe: TfdsRecipe) -> int:
    """Number of training and test images in a prepared dataset."""
    return sum(builder.info.splits[split].num_examples for split in (*recipe.training, 'test'))


def bytes_of(builder: Any, count: int) -> int:
    """Bytes of `count` decoded images of the dataset of `builder`, prepared or not."""
    return count * int(np.prod(builder.info.features['image'].shape))


def _parts(recipe: TfdsRecipe) -> dict[str, tuple[str, ...]]:
    return {'train': recipe.training, 'test': ('test',)}


def _id(split: str, position: int, recipe: TfdsRecipe) -> str:
    return f'{split}_{position:0{recipe.id_digits}d}'


def _empty_labels(count: int, recipe: TfdsRecipe) -> tuple[np.ndarray, np.ndarray]:
    longest = max(map(len, (*recipe.training, 'test'))) + 1 + recipe.id_digits
    return np.empty(count, np.int32), np.empty(count, f'<U{longest}')


def _empty(builder: Any, count: int, recipe: TfdsRecipe, *, pixels: bool) -> tuple[np.ndarray, ...]:
    form = ((count, *builder.info.features['image'].shape), np.uint8) if pixels else (count, np.int32)
    return np.empty(*form), *_empty_labels(count, recipe)


def _fill(
    builder: Any, split: str, recipe: TfdsRecipe, arrays: list[np.ndarray], count: Callable[[], None]
) -> None:
    """Fill images (or the numbers of records), labels and ids of one split, each at its position."""
    from metasemi_jax.data.images.decode import open_image

    images, labels, ids = arrays
    filled = np.zeros(len(labels), bool)
    for number, position, example in _examples(builder, split, recipe):
        count()
        filled[position] = True
        labels[position] = example['label']
        ids[position] = _id(split, position, recipe)
        if images.ndim == 1:
            images[position] = number
        else:
            pixels = np.asarray(open_image(io.BytesIO(example['image'])))
            images[position] = pixels.reshape(images.shape[1:])
    if not filled.all():
        raise ValueError(f'{filled.sum()} different ids in {split}')


def _examples(builder: Any, split: str, recipe: TfdsRecipe) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(number of the record, position in the original file, features) of each record, as they are stored."""
    import tensorflow_datasets as tfds

    # PNGs are decoded here: TFDS would use OpenCV where it is installed, and complain where it is not.
    source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
    order = None if recipe.has_ids else stored_order(split, len(source))
    for start in range(0, len(source), READ_TOGETHER):
        together = range(start, min(start + READ_TOGETHER, len(source)))
        for i, example in zip(together, source.__getitems__(together), strict=True):
            position = int(example['id'].rpartition(b'_')[2]) if order is None else int(order[i])
            yield i, position, example


def stored_order(split: str, count: int) -> np.ndarray:
    """Positions in the original file of each record of `split`, int [count].

    TFDS's builders of these datasets give an example its position for a key, and TFDS sorts a split by the
    MD5 of the split's name and the key; its versions promise this order.
    """
    from tensorflow_datasets.core.hashing import Hasher

    hasher = Hasher(split)
    return np.array(sorted(range(count), key=hasher.hash_key), np.int32)
