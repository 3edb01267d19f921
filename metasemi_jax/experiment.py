"""A config made into functions and arrays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from metasemi_jax.data.augment import normalize
from metasemi_jax.data.pipeline import Augmentation, Pipeline, channel_statistics, resident_pipeline
from metasemi_jax.data.sources import Dataset, load_dataset
from metasemi_jax.data.splits import class_balanced_split, split_positions
from metasemi_jax.errors import UserError
from metasemi_jax.evaluate import make_evaluate, place_eval_data
from metasemi_jax.models import create_model, init_variables
from metasemi_jax.multi_step import StepFn
from metasemi_jax.optimizer import ramp_up, sgd_momentum, warmup_piecewise_schedule
from metasemi_jax.train_step import TrainState, make_train_step


class Experiment(NamedTuple):
    """What the loop needs of a config."""

    state: TrainState  # before the first step
    pipeline: Pipeline
    train_step: StepFn
    evaluate: Callable[
        [dict], dict[str, float]
    ]  # variables -> {'error': percent, 'loss': ...} on the test images
    labeled_ids: list[str]
    description: str  # one line for people


def build_experiment(config: Any, labeled_ids: list[str] | None = None) -> Experiment:
    """Load the data of `config`, split it, and make its network and step.

    Args:
      config: a ConfigDict that `check_config` has passed.
      labeled_ids: the split to use; by default it is drawn as the config says.

    Raises:
      UserError: an unknown name, or settings that do not fit the data.
    """
    dataset = load_data(config)
    if labeled_ids is None:
        labeled_ids = draw_split(config, dataset)
    elif len(labeled_ids) != config.data.num_labels:
        raise UserError(
            f'labeled_ids.txt names {len(labeled_ids)} images, data.num_labels={config.data.num_labels}; '
            'make the two agree, or delete the file of a run without checkpoints'
        )
    labeled, unlabeled = split_positions(dataset.train_ids, labeled_ids)
    if not len(unlabeled) and (config.method.meta or config.method.mixup):
        raise UserError(
            f'data.num_labels={config.data.num_labels} leaves no unlabeled image; use fewer labels, or '
            'method.meta=False and method.mixup=False to train on labels alone'
        )
    augmentation = _augmentation(config, dataset)
    model, dtype = _model(config, dataset.num_classes)
    tx = sgd_momentum(momentum=config.optimizer.momentum, weight_decay=config.optimizer.weight_decay)
    variables = init_variables(model, jax.random.key(config.seed), dataset.image_shape)
    evaluate = make_evaluate(
        model, functools.partial(normalize, mean=augmentation.mean, std=augmentation.std)
    )
    test_data = place_eval_data(dataset.test_images, dataset.test_labels, batch_size=config.eval_batch_size)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    return Experiment(
        state=TrainState.create(variables, tx, with_ema=config.ema_decay > 0),
        pipeline=resident_pipeline(
            dataset,
            labeled,
            unlabeled,
            batch_size=config.batch_size,
            seed=config.seed,
            augmentation=augmentation,
        ),
        train_step=_train_step(config, model, tx),
        evaluate=functools.partial(evaluate, data=test_data),
        labeled_ids=labeled_ids,
        description=(
            f'{config.data.name}: {len(labeled):,} labeled, {len(unlabeled):,} unlabeled, '
            f'{len(dataset.test_labels):,} test images of {dataset.num_classes} classes; '
            f'{config.model.name}, {num_params:,} parameters, {dtype.name} on {jax.default_backend()}'
        ),
    )


def load_data(config: Any) -> Dataset:
    """The images that `config` names."""
    return load_dataset(config.data.name, data_dir=config.data.data_dir, manual_dir=config.data.manual_dir)


def draw_split(config: Any, dataset: Dataset) -> list[str]:
    """The ids that keep their label in a run of `config`: the same number of every class."""
    return class_balanced_split(
        dataset.train_labels,
        dataset.train_ids,
        config.data.num_labels,
        num_classes=dataset.num_classes,
        seed=config.seed,
    )


def _augmentation(config: Any, dataset: Dataset) -> Augmentation:
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    if not mean:
        mean, std = channel_statistics(dataset.train_images)
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


def _train_step(config: Any, model: nn.Module, tx: optax.GradientTransformation) -> StepFn:
    optimizer, method = config.optimizer, config.method
    return make_train_step(
        model,
        tx,
        lr_schedule=warmup_piecewise_schedule(
            optimizer.lr, warmup_steps=optimizer.warmup_steps, milestones=optimizer.milestones
        ),
        consistency_schedule=lambda step: method.consistency_weight * ramp_up(step, method.rampup_steps),
        meta=method.meta,
        mixup_gamma=method.mixup_gamma if method.mixup else None,
        meta_lr=method.meta_lr,
        estimator=method.estimator,
        epsilon=method.epsilon,
        ema_decay=config.ema_decay,
    )
