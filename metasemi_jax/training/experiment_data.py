"""The data of a config: images, split, the pipeline that feeds the step, and the evaluation images."""

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metasemi_jax.data.batches.resident import Pipeline, channel_statistics, resident_pipeline
from metasemi_jax.data.batches.streamed_rows import HostCrop
from metasemi_jax.data.batches.streaming import streaming_pipeline
from metasemi_jax.data.batches.views import feature_views, make_views
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.data.images.parallel import available_cores
from metasemi_jax.data.images.random_resized_crop import CropRange
from metasemi_jax.data.images.stored import StoredImages
from metasemi_jax.data.sampling import Sampling
from metasemi_jax.data.sources.imagenet_subsets import SUBSETS, subset_file
from metasemi_jax.data.sources.registry import IMAGENET, Dataset, load_dataset
from metasemi_jax.data.sources.stl10_folds import FOLDS, fold_file
from metasemi_jax.data.sources.stl10_folds import NAME as STL10
from metasemi_jax.data.split_files import read_split_file
from metasemi_jax.data.splits import Split, check_labels, draw_split, split_positions
from metasemi_jax.errors import UserError
from metasemi_jax.training.recipe import BATCH_SIZE

# As usual for ImageNet: resize the shorter side to 256 pixels, crop the centre 224.
EVALUATION_RESIZE = 256 / 224
FLOAT_BYTES = 4  # bytes of one channel of a pixel in the step
CGROUP_LIMIT = Path('/sys/fs/cgroup/memory.max')  # of a container; 'max' where there is none


def load_data(config: Any) -> Dataset:
    """The dataset that `config.data` names.

    Raises:
      UserError: data that cannot be had, or images too large for a batch of them.
    """
    data = config.data
    # Checked before anything is read: the system would kill the program without a message.
    check_batch_bytes(config, (data.image_size, data.image_size, 3))
    return load_dataset(
        data.name,
        data_dir=data.data_dir,
        manual_dir=data.manual_dir,
        path=data.path,
        image_size=data.image_size,
        memory_budget=data.memory_budget,
        resize=evaluation_resize(config),
        on_disk=data.crop == 'resized',
    )


def check_batch_bytes(config: Any, image_shape: tuple[int, ...]) -> None:
    """Refuse images of which this machine cannot hold a batch."""
    batch_size = config.batch_size or BATCH_SIZE  # None: the recipe is about to choose it
    count = (1 + config.unlabeled_ratio) * batch_size
    needed, there = FLOAT_BYTES * count * math.prod(image_shape), machine_memory()
    if needed > there:
        raise UserError(
            f"one step's {count:,} images of {_times(image_shape)} take {needed:,} bytes, and this machine "
            f'has {there:,}; use a smaller data.image_size={config.data.image_size} or '
            f'batch_size={batch_size}'
        )


def machine_memory() -> int:
    """Bytes that this machine, or the container on it, has in all."""
    total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(CGROUP_LIMIT.read_text()))
    return total


def _check_pad(config: Any, image_shape: tuple[int, ...]) -> None:
    most = min(image_shape[:2]) - 1
    if config.data.crop == 'pad' and config.data.pad > most:
        raise UserError(
            f'data.pad={config.data.pad}: a crop of images of {_times(image_shape[:2])} could show nothing '
            f'of them; use at most {most}'
        )


def _times(sizes: tuple[int, ...]) -> str:
    return '×'.join(map(str, sizes))


def evaluation_resize(config: Any) -> int:
    """Pixels to which the shorter side of a test image is resized before the centre crop; 0: `image_size`."""
    return round(config.data.image_size * EVALUATION_RESIZE) if config.data.crop == 'resized' else 0


def choose_split(config: Any, dataset: Dataset, begun: Split | None = None) -> Split:
    """`begun`, the checked split of the run that goes on, or a new one, drawn or read from `data.split_file`.

    Raises:
      UserError: a split file that cannot be used, or is not of the run; numbers that do not fit the data.
    """
    data, named = config.data, None
    if data.split_file:
        named = read_split_file(_split_file(data), dataset.train_ids)
        if data.num_labels not in (0, len(named)):
            raise UserError(
                f'data.split_file={data.split_file} names {len(named):,} images, data.num_labels='
                f'{data.num_labels}; add data.num_labels={len(named)}'
            )
    if begun is None:
        return draw_split(
            dataset,
            num_labels=data.num_labels,
            num_validation=data.num_validation,
            seed=config.seed,
            labeled_ids=named,
        )
    if named is not None and {*named} != {*begun.labeled, *begun.validation}:
        raise UserError(
            f'data.split_file={data.split_file} is not the split that this workdir began with; name '
            'that file, or another workdir'
        )
    check_labels(dataset, [*begun.labeled, *begun.validation])
    count = len(begun.labeled) + len(begun.validation)
    if data.num_labels not in (0, count) or not begun.labeled:
        raise UserError(
            f'labeled_ids.txt names {count} images, data.num_labels={data.num_labels}; '
            'make the two agree, or delete the file of a run without checkpoints'
        )
    return begun


def input_spec(config: Any, dataset: Dataset, positions: np.ndarray) -> InputSpec:
    """Shape and normalisation of the images; where the config does not give it, of those at `positions`.

    Raises:
      UserError: `data.mean` and `data.std` name another number of channels.
    """
    if dataset.has_features:
        return InputSpec(dataset.image_shape, (), ())
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    if not mean:
        mean, std = channel_statistics(dataset.train_images, positions)
    channels = dataset.image_shape[-1]
    if len(mean) != channels:
        raise UserError(
            f'data.mean and data.std name {len(mean)} channels, the images have {channels}; '
            'give as many, or () to compute them from the training images'
        )
    return InputSpec(dataset.image_shape, mean, std)


def training_pools(config: Any, dataset: Dataset, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the labeled and the unlabeled pool in the training images, in the order of their ids.

    With `data.include_labeled` the labeled images are in the unlabeled pool too, as in FixMatch's program.
    """
    labeled, unlabeled = split_positions(dataset.train_ids, split.labeled, split.validation)
    if config.data.include_labeled:
        _, unlabeled = split_positions(dataset.train_ids, [], split.validation)
    return labeled, unlabeled


def build_pipeline(
    config: Any,
    dataset: Dataset,
    labeled: np.ndarray,
    unlabeled: np.ndarray,
    spec: InputSpec,
    second_view: str | None,
) -> Pipeline:
    """The pipeline of the two pools, positions in the training images: resident, or streamed for lazy images.

    Raises:
      UserError: a way of cropping that the images do not allow.
    """
    data = config.data
    settings = config.batch_size, config.seed, config.unlabeled_ratio
    sampling = Sampling(labeled, unlabeled, *settings, jax.process_index(), jax.process_count())
    if dataset.has_features:
        return resident_pipeline(dataset, sampling, feature_views(second_view))
    _check_pad(config, dataset.image_shape)
    augmentation = {'pad': data.pad, 'pad_mode': data.pad_mode, 'flip': data.flip}
    augmentation |= {'mean': spec.mean, 'std': spec.std, 'second': second_view, 'strong': data.strong}
    if not on_disk(dataset.train_images):
        if data.crop == 'resized':
            raise UserError(
                f"data.crop='resized' needs image files, and the images of {data.name} are in memory; "
                "use data.crop='pad'"
            )
        return resident_pipeline(dataset, sampling, make_views(**augmentation))
    crop = None
    if data.crop == 'resized':
        # This crop needs no padding, and the host flips the images too.
        crop = HostCrop(CropRange(tuple(data.crop_area), tuple(data.crop_aspect)), data.flip)
        augmentation |= {'pad': 0, 'flip': False}
    workers = available_cores() if data.num_workers is None else data.num_workers
    views = make_views(**augmentation)
    return streaming_pipeline(dataset, sampling, views, crop=crop, num_workers=workers)


def eval_images(dataset: Dataset, split: Split) -> dict[str, tuple[Any, np.ndarray]]:
    """Images and labels of 'validation' and 'test', as far as there are such images."""
    images = {'validation': (dataset.val_images, dataset.val_labels)}
    if split.validation:
        held_out, _ = split_positions(dataset.train_ids, split.validation)
        images['validation'] = (dataset.train_images[held_out], dataset.train_labels[held_out])
    images['test'] = (dataset.test_images, dataset.test_labels)
    return {name: pair for name, pair in images.items() if pair[0] is not None}


def on_disk(images: Any) -> bool:
    """Whether `images` are lazy: decoded when they are needed."""
    return isinstance(images, StoredImages)


def _split_file(data: Any) -> str:
    published = {IMAGENET: (SUBSETS, subset_file), STL10: (FOLDS, fold_file)}
    names, find = published.get(data.name, ((), None))
    if data.split_file in names and not Path(data.split_file).exists():
        return str(find(data.split_file, data_dir=data.data_dir, manual_dir=data.manual_dir))
    return data.split_file
