"""A config made into functions and arrays."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasemi_jax.data.augment import normalize
from metasemi_jax.data.imagenet_subsets import SUBSETS, subset_file
from metasemi_jax.data.parallel import available_cores
from metasemi_jax.data.pipeline import Augmentation, Pipeline, channel_statistics, resident_pipeline
from metasemi_jax.data.random_resized_crop import CropRange
from metasemi_jax.data.sources import IMAGENET, Dataset, load_dataset
from metasemi_jax.data.split_files import read_split_file
from metasemi_jax.data.splits import Split, data_sha256, draw_split, split_positions, split_sha256
from metasemi_jax.data.stored_images import StoredImages
from metasemi_jax.data.streamed_rows import HostCrop
from metasemi_jax.data.streaming import streaming_pipeline
from metasemi_jax.errors import UserError
from metasemi_jax.evaluate import (
    EvalData,
    StreamedEvalData,
    make_evaluate,
    place_eval_data,
    stream_eval_data,
)
from metasemi_jax.models import create_model, init_variables
from metasemi_jax.multi_step import StepFn
from metasemi_jax.optimizer import (
    Schedule,
    ramp_up,
    sgd_momentum,
    warmup_cosine_schedule,
    warmup_piecewise_schedule,
)
from metasemi_jax.train_step import TrainState, make_train_step

# ImageNet's habit: the shorter side to 256 pixels, then the middle 224.
EVALUATION_RESIZE = 256 / 224


class Experiment(NamedTuple):
    """What the loop needs of a config."""

    state: TrainState  # before the first step
    pipeline: Pipeline
    train_step: StepFn
    # variables -> {'error': percent, 'loss': ...} for each of 'test' and 'validation' that has images
    evaluate: Callable[[dict], dict[str, dict[str, float]]]
    split: Split
    split_sha256: str  # of the labeled ids
    data_sha256: str  # of all ids, those held out, and the classes
    class_names: tuple[str, ...]
    description: str  # one line for people


def build_experiment(config: Any, split: Split | None = None) -> Experiment:
    """Load the data of `config`, split it, and make its network and step.

    Args:
      config: a ConfigDict that `check_config` has passed.
      split: of a run that was begun; by default it is drawn, or read, as the config says.

    Raises:
      UserError: an unknown name, or settings that do not fit the data.
    """
    dataset = load_data(config)
    split = choose_split(config, dataset, split)
    labeled, unlabeled = split_positions(dataset.train_ids, split.labeled, split.validation)
    if not len(unlabeled) and (config.method.meta or config.method.mixup):
        raise UserError(
            f'data.num_labels={config.data.num_labels} leaves no unlabeled image; use fewer labels, or '
            'method.meta=False and method.mixup=False to train on labels alone'
        )
    augmentation = _augmentation(config, dataset, labeled, unlabeled)
    model, dtype = _model(config, dataset.num_classes)
    tx = sgd_momentum(momentum=config.optimizer.momentum, weight_decay=config.optimizer.weight_decay)
    variables = init_variables(model, jax.random.key(config.seed), dataset.image_shape)
    eval_data = _eval_data(config, dataset, split)
    evaluate = make_evaluate(
        model, functools.partial(normalize, mean=augmentation.mean, std=augmentation.std)
    )
    num_params = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    sizes = {'labeled': len(labeled), 'unlabeled': len(unlabeled)} | {
        name: data.count if isinstance(data, StreamedEvalData) else int((data.labels >= 0).sum())
        for name, data in eval_data.items()
    }
    return Experiment(
        state=TrainState.create(variables, tx, with_ema=config.ema_decay > 0),
        pipeline=_pipeline(config, dataset, labeled, unlabeled, augmentation),
        train_step=_train_step(config, model, tx),
        evaluate=lambda variables: {name: evaluate(variables, data) for name, data in eval_data.items()},
        split=split,
        split_sha256=split_sha256(split.labeled),
        data_sha256=data_sha256(dataset.train_ids, split.validation, dataset.class_names),
        class_names=dataset.class_names,
        description=(
            f'{config.data.name}: {", ".join(f"{n:,} {name}" for name, n in sizes.items())} images of '
            f'{dataset.num_classes} classes; {config.model.name}, {num_params:,} parameters, '
            f'{"×".join(map(str, dataset.image_shape))} pixels'
            f'{" from disk" if _on_disk(dataset.train_images) else ""}, '
            f'{dtype.name} on {jax.default_backend()}'
        ),
    )


def load_data(config: Any) -> Dataset:
    """The dataset that `config.data` names."""
    data = config.data
    return load_dataset(
        data.name,
        data_dir=data.data_dir,
        manual_dir=data.manual_dir,
        path=data.path,
        image_size=data.image_size,
        memory_budget=data.memory_budget,
        resize=round(data.image_size * EVALUATION_RESIZE) if data.crop == 'resized' else 0,
        on_disk=data.crop == 'resized',
    )


def choose_split(config: Any, dataset: Dataset, begun: Split | None = None) -> Split:
    """The split of `begun`, a run of this config, or a new one, drawn or read from `data.split_file`.

    Raises:
      UserError: a split file that cannot be used, or is not of the run; numbers that do not fit the data.
    """
    data, named = config.data, None
    if data.split_file:
        named = read_split_file(_split_file(data), dataset.train_ids)
        if data.num_labels not in (0, len(named)):
            raise UserError(
                f'data.split_file={data.split_file} names {len(named):,} images, data.num_labels='
                f'{data.num_labels}; add --config.data.num_labels={len(named)}'
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
            f'data.split_file={data.split_file} is not the split that this --workdir began with; name '
            'that file, or another --workdir'
        )
    count = len(begun.labeled) + len(begun.validation)
    if data.num_labels not in (0, count) or not begun.labeled:
        raise UserError(
            f'labeled_ids.txt names {count} images, data.num_labels={data.num_labels}; '
            'make the two agree, or delete the file of a run without checkpoints'
        )
    return begun


def _split_file(data: Any) -> str:
    if data.name == IMAGENET and data.split_file in SUBSETS and not Path(data.split_file).exists():
        return str(subset_file(data.split_file, data_dir=data.data_dir, manual_dir=data.manual_dir))
    return data.split_file


def _on_disk(images: Any) -> bool:
    return isinstance(images, StoredImages)


def _pipeline(
    config: Any, dataset: Dataset, labeled: np.ndarray, unlabeled: np.ndarray, augmentation: Augmentation
) -> Pipeline:
    data = config.data
    common = {'batch_size': config.batch_size, 'seed': config.seed}
    if not _on_disk(dataset.train_images):
        if data.crop == 'resized':
            raise UserError(
                f"data.crop='resized' needs image files, and the images of {data.name} are in memory; "
                "use data.crop='pad'"
            )
        return resident_pipeline(dataset, labeled, unlabeled, augmentation=augmentation, **common)
    crop = None
    if data.crop == 'resized':
        # The crop leaves nothing to pad, and the flip is done where it is.
        crop = HostCrop(CropRange(tuple(data.crop_area), tuple(data.crop_aspect)), data.flip)
        augmentation = augmentation._replace(pad=0, flip=False)
    workers = available_cores() if data.num_workers is None else data.num_workers
    return streaming_pipeline(
        dataset, labeled, unlabeled, augmentation=augmentation, crop=crop, num_workers=workers, **common
    )


def _eval_data(config: Any, dataset: Dataset, split: Split) -> dict[str, EvalData | StreamedEvalData]:
    """'validation' and 'test', as far as there are such images."""
    images = {'validation': (dataset.val_images, dataset.val_labels)}
    if split.validation:
        held_out, _ = split_positions(dataset.train_ids, split.validation)
        images['validation'] = (dataset.train_images[held_out], dataset.train_labels[held_out])
    images['test'] = (dataset.test_images, dataset.test_labels)
    return {
        name: (stream_eval_data if _on_disk(pair[0]) else place_eval_data)(
            *pair, batch_size=config.eval_batch_size
        )
        for name, pair in images.items()
        if pair[0] is not None
    }


def _augmentation(config: Any, dataset: Dataset, labeled: np.ndarray, unlabeled: np.ndarray) -> Augmentation:
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    if not mean:
        mean, std = channel_statistics(dataset.train_images, np.concatenate([labeled, unlabeled]))
    channels = dataset.image_shape[-1]
    if len(mean) != channels:
        raise UserError(
            f'data.mean and data.std name {len(mean)} channels, the images have {channels}; '
            'give as many, or () to compute them from the training images'
        )
    return Augmentation(config.data.pad, config.data.flip, mean, std)


def _model(config: Any, num_classes: int) -> tuple[nn.Module, Any]:
    dtype = config.dtype
    if dtype == 'auto':
        dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    dtype = jnp.dtype(dtype)
    options = {name: value for name, value in config.model.items() if name != 'name' and value is not None}
    return create_model(config.model.name, num_classes, dtype=dtype, **options), dtype


def _lr_schedule(config: Any) -> Schedule:
    optimizer = config.optimizer
    if optimizer.schedule == 'cosine':
        return warmup_cosine_schedule(
            optimizer.lr, warmup_steps=optimizer.warmup_steps, total_steps=config.total_steps
        )
    return warmup_piecewise_schedule(
        optimizer.lr, warmup_steps=optimizer.warmup_steps, milestones=optimizer.milestones
    )


def _train_step(config: Any, model: nn.Module, tx: optax.GradientTransformation) -> StepFn:
    method = config.method
    return make_train_step(
        model,
        tx,
        lr_schedule=_lr_schedule(config),
        consistency_schedule=lambda step: method.consistency_weight * ramp_up(step, method.rampup_steps),
        meta=method.meta,
        mixup_gamma=method.mixup_gamma if method.mixup else None,
        meta_lr=method.meta_lr,
        estimator=method.estimator,
        epsilon=method.epsilon,
        ema_decay=config.ema_decay,
    )
