"""The datasets of `RECIPES`, without TensorFlow.

original archives, or array_record files that TFDS has prepared -> arrays on disk, mapped into memory. This is
done once: a later start reads the arrays alone, without importing TFDS. Images that exceed the memory budget
stay in array_record files, which TFDS's builder writes if they are missing, and an index replaces the arrays.
"""

import functools
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.sources.array_cache import read_cache, write_cache
from metasemi_jax.data.sources.image_records import ImageRecords
from metasemi_jax.data.sources.tfds_decode import bytes_of, decode, from_archives, num_images
from metasemi_jax.data.sources.tfds_prepare import (
    check_sources,
    originals_folder,
    prepare,
    read_originals,
    stock_builder,
)
from metasemi_jax.data.sources.tfds_recipes import RECIPES
from metasemi_jax.data.sources.tfds_store import data_root, is_prepared, made_once, readable_errors
from metasemi_jax.errors import UserError
from metasemi_jax.files import check_writable
from metasemi_jax.progress import ImageCounter, ProgressLine, duration

TFDS_DATASETS = tuple(RECIPES)
EVALUATION_SHARE = 32  # of the memory budget
Cache = tuple[dict[str, np.ndarray], Any]  # arrays; class names


def load_tfds(
    name: str,
    *,
    data_dir: str = '',
    manual_dir: str = '',
    memory_budget: int = 8_000_000_000,
    on_disk: bool = False,
) -> Dataset:
    """The dataset that TFDS calls `name`; its first use reads the archives, which takes some seconds.

    Args:
      name: one of `TFDS_DATASETS`.
      data_dir: folder of prepared TFDS datasets; '' for TFDS's own default, $TFDS_DATA_DIR or
        ~/tensorflow_datasets. The decoded arrays lie there too, in `metasemi_jax/`.
      manual_dir: folder of the original archives, needed by the first use alone, see `originals_folder`; with
        '' a file that is not there is downloaded.
      memory_budget: bytes that the images may take. Images that take more are `StoredImages`; the test images
        are in memory even so, where they take at most a 32nd of it.
      on_disk: leave the images on disk even if they would fit.

    Returns:
      A dataset ordered by id, its images mapped from the disk (read-only uint8 [N, H, W, C]) or stored there.
      An id is the image's split and its position in the original archive.

    Raises:
      UserError: an archive missing or damaged, no network, a full disk, a folder that cannot be used. Nothing
        half-written stays.
    """
    root = data_root(data_dir)
    # An index serves where the decoded images may not be held.
    budget = 0 if on_disk else memory_budget
    with readable_errors(name, root, needed=RECIPES[name].room):
        arrays, class_names = _find_cache(name, root, budget) or _make_cache(name, root, budget, manual_dir)
        if 'train_images' in arrays:
            train, test = arrays['train_images'], arrays['test_images']
        else:
            train, test = _stored_images(name, root, arrays)
            if np.prod(test.shape) <= memory_budget // EVALUATION_SHARE:
                # In memory: every evaluation reads them again.
                test = np.asarray(test)
    return Dataset(
        train,
        *(arrays[f'train_{kind}'] for kind in ('labels', 'ids')),
        test,
        arrays['test_labels'],
        tuple(class_names),
        test_ids=arrays['test_ids'],
    )


def _stored_images(name: str, root: Path, arrays: dict[str, np.ndarray]) -> list[StoredImages]:
    """Training and test images in the order of the index."""
    builder = stock_builder(name, root)
    side, _, channels = builder.info.features['image'].shape
    images = []
    for part, splits in (('train', '+'.join(RECIPES[name].training)), ('test', 'test')):
        records = arrays[f'{part}_records']
        stored = StoredImages(ImageRecords(builder, splits), len(records), side, colour=channels == 3)
        images.append(stored[records])
    return images


def _cache_folder(name: str, root: Path, *, pixels: bool) -> Path:
    version = RECIPES[name].version
    return root / 'metasemi_jax' / name / (version if pixels else f'{version}.index')


def _find_cache(name: str, root: Path, budget: int) -> Cache | None:
    """Decoded images, if they take no more than `budget`, or the index of those that take more."""
    found = read_cache(_cache_folder(name, root, pixels=True)) if budget else None
    if found and sum(found[0][f'{part}_images'].nbytes for part in ('train', 'test')) <= budget:
        return found
    index = read_cache(_cache_folder(name, root, pixels=False))
    if index is None:
        return None
    builder = stock_builder(name, root)
    if not is_prepared(builder):
        return None
    count = num_images(builder, RECIPES[name])
    indexed = sum(len(index[0][f'{part}_records']) for part in ('train', 'test'))
    return index if indexed == count and bytes_of(builder, count) > budget else None


def _make_cache(name: str, root: Path, budget: int, manual_dir: str) -> Cache:
    folder, originals = _cache_folder(name, root, pixels=True), originals_folder(name, root, manual_dir)
    # Before the lock, which is the first thing to be written.
    check_writable(folder, name, 'use another folder with data.data_dir=')
    if not is_prepared(stock_builder(name, root)):
        check_sources(name, root, originals, required=bool(manual_dir))
    find = functools.partial(_find_cache, name, root, budget)
    return made_once(name, root, folder, find, functools.partial(_prepare, name, root, budget, originals))


def _prepare(name: str, root: Path, budget: int, originals: Path, line: ProgressLine) -> Cache:
    start = time.perf_counter()
    # A builder reads what is prepared when it is made: only now nobody else is writing.
    builder = stock_builder(name, root)
    prepared = is_prepared(builder)
    arrays = None
    if not prepared:
        line.say(f'{name}: preparing it in {root}, once')
        arrays = _read_archives(builder, budget, originals, line)
        if arrays is None:
            # Records on disk are needed: an archive gives no image without those before it.
            prepare(builder, originals, ImageCounter(line, f'{name}: prepared'))
    if arrays is None:
        arrays = _read_prepared(builder, budget, line, made_here=not prepared)
    pixels = 'train_images' in arrays
    cache = _cache_folder(name, root, pixels=pixels)
    write_cache(cache, arrays, builder.info.features['label'].names)
    what = 'decoded images' if pixels else 'ids and labels'
    line.say(f'{name}: ready after {duration(time.perf_counter() - start)}, {what} in {cache}')
    return read_cache(cache)


def _read_archives(
    builder: Any, budget: int, originals: Path, line: ProgressLine
) -> dict[str, np.ndarray] | None:
    """The arrays of the original archives; None if the images take more than `budget`."""
    recipe = RECIPES[builder.name]
    splits = read_originals(builder, originals)
    if bytes_of(builder, sum(len(split.images) for split in splits.values())) > budget:
        return None
    return from_archives(splits, recipe, ImageCounter(line, f'{builder.name}: read'))


def _read_prepared(
    builder: Any, budget: int, line: ProgressLine, *, made_here: bool
) -> dict[str, np.ndarray]:
    recipe = RECIPES[builder.name]
    pixels = bytes_of(builder, num_images(builder, recipe)) <= budget
    counter = ImageCounter(line, f'{builder.name}: {"decoded" if pixels else "indexed"}')
    try:
        return decode(builder, recipe, counter, pixels=pixels)
    except UserError:
        # What was written a moment ago and cannot be read: the disk is full or failing.
        if made_here:
            shutil.rmtree(builder.data_dir)
        raise
