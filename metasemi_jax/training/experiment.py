"""From a config to the functions and arrays of a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from metasemi_jax.data.batches.rand_augment.draws import GOOGLE_CUTOUT
from metasemi_jax.data.batches.resident import Pipeline
from metasemi_jax.data.batches.views import make_normalize, statistics_of
from metasemi_jax.data.dataset import Dataset, InputSpec
from metasemi_jax.data.identity import changed_parts, data_sha256
from metasemi_jax.data.splits import Split, split_sha256
from metasemi_jax.errors import UserError
from metasemi_jax.methods import Method, as_network, create_method, method_options
from metasemi_jax.models import create_model, init_variables, variable_shapes
from metasemi_jax.models.trained_parts import HEAD, frozen_layers
from metasemi_jax.optimizer import (
    Schedule,
    by_layer,
    cosine_7_16_schedule,
    make_optimizer,
    warmup_cosine_schedule,
    warmup_piecewise_schedule,
)
from metasemi_jax.train_step import TrainState, make_train_step
from metasemi_jax.training.choices import with_choices, with_image_size
from metasemi_jax.training.evaluate import make_evaluate, place_eval_data, stream_eval_data
from metasemi_jax.training.experiment_data import (
    build_pipeline,
    check_batch_bytes,
    choose_split,
    eval_images,
    input_spec,
    load_data,
    on_disk,
    training_pools,
)
from metasemi_jax.training.image_log import Examples, example_images
from metasemi_jax.training.multi_step import StepFn
from metasemi_jax.training.probe import make_probe, place_probe_data
from metasemi_jax.training.published_weights import with_normalisation, with_published_network
from metasemi_jax.training.recipe import sentence


class Experiment(NamedTuple):
    """Functions and arrays that the loop takes."""

    config: Any  # settings, completed by the recipe
    chosen: str  # the choices of the recipe as one line for people; '' if there are none
    state: TrainState  # before the first step, on the host
    pipeline: Pipeline
    model: nn.Module
    make_train_step: Callable[[float], StepFn]  # factor on the learning rate -> step
    # variables -> {split: {'error': percent, 'loss': ...}}
    evaluate: Callable[[dict], dict[str, dict[str, float]]]
    evaluated: tuple[str, ...]  # those splits: 'test' and 'validation', if not empty
    # variables -> metrics of a few training images, see `make_probe`
    probe: Callable[[dict], dict[str, float]]
    split: Split
    split_sha256: str  # of the labeled ids
    data_sha256: str  # of images, labels and class names
    is_same_data: Callable[[str | None], bool]  # whether a recorded `data_sha256`, of any version, fits
    class_names: tuple[str, ...]
    input_spec: InputSpec  # shape and normalisation that the network expects
    description: str  # data, network and devices as one line for people
    predict: Callable[[dict, Array], Array]  # (variables, uint8 [n, H, W, C]) -> probabilities [n, K]
    examples: Callable[[], dict[str, Examples]]  # a few images for TensorBoard


class Parts(NamedTuple):
    """Components of the step of a config."""

    model: nn.Module
    dtype: Any  # of the network's computation
    method: Method
    tx: optax.GradientTransformation  # without its learning rate
    labeled: np.ndarray  # int, positions in the training images
    unlabeled: np.ndarray
    drawn: np.ndarray  # `unlabeled`, or nothing if the method uses no unlabeled images
    spec: InputSpec
    pipeline: Pipeline


def build_experiment(
    config: Any, mesh: Mesh, split: Split | None = None, *, dataset: Dataset | None = None
) -> Experiment:
    """Load the data of `config`, split it, and make its network and step.

    Args:
      config: a ConfigDict that `check_config` has passed.
      split: split of the run that goes on; None: draw it, or read `data.split_file`.
      dataset: dataset in memory; None: load the one that the config names.

    Raises:
      UserError: an unknown name, or settings that do not fit the data.
    """
    config, dataset, chosen = _complete(config, dataset)
    check_batch_bytes(config, dataset.image_shape)
    split = choose_split(config, dataset, split)
    parts = build_parts(config, dataset, split)
    model, method, tx, spec = parts.model, parts.method, parts.tx, parts.spec
    variables = init_variables(model, jax.random.key(config.seed), dataset.image_shape)
    method_state = method.init(dataset.num_classes, len(parts.unlabeled))
    state = TrainState.create(variables, tx, with_ema=config.ema_decay > 0, method_state=method_state)
    held_out = eval_images(dataset, split)
    to_input = make_normalize(spec)
    return Experiment(
        config=config,
        chosen=sentence(chosen, time_budget=bool(config.time_budget)) if chosen else '',
        state=jax.device_get(state),
        pipeline=parts.pipeline,
        model=model,
        make_train_step=lambda lr_factor: build_train_step(config, method, tx, lr_factor),
        evaluate=_make_evaluate(config, model, to_input, held_out, mesh),
        evaluated=tuple(held_out),
        probe=_make_probe(dataset, parts, mesh),
        split=split,
        split_sha256=split_sha256(split.labeled),
        data_sha256=data_sha256(dataset, split.validation),
        is_same_data=lambda recorded: not changed_parts(recorded, dataset, split.validation),
        class_names=dataset.class_names,
        input_spec=spec,
        description=_describe(config, dataset, parts, held_out, variables, mesh),
        predict=lambda variables, images: jax.nn.softmax(
            model.apply(variables, to_input(images), train=False)
        ),
        examples=example_images(dataset, split, parts.unlabeled),
    )


def _complete(config: Any, dataset: Dataset | None) -> tuple[Any, Dataset, dict[str, Any]]:
    """`config` without open fields, its dataset (loaded if None), and the values that the recipe chose."""
    size = {}
    config, published = with_published_network(config)
    if dataset is None:
        config, size = with_image_size(config, published=published is not None)
        dataset = load_data(config)
    if published is not None and not dataset.has_features:
        config = with_normalisation(config, published, dataset.image_shape[-1])
    config, chosen = with_choices(config, dataset)
    return config, dataset, size | chosen


def _make_evaluate(
    config: Any, model: nn.Module, to_input: Callable, held_out: dict[str, tuple[Any, np.ndarray]], mesh: Mesh
) -> Callable[[dict], dict[str, dict[str, float]]]:
    """`Experiment.evaluate`, with the images of `held_out` on the devices unless they are lazy."""
    data = {}
    for name, (images, labels) in held_out.items():
        place = stream_eval_data if on_disk(images) else place_eval_data
        data[name] = place(images, labels, batch_size=config.eval_batch_size, mesh=mesh)
    evaluate = make_evaluate(model, to_input, mesh)
    return lambda variables: {name: evaluate(variables, images) for name, images in data.items()}


def _make_probe(dataset: Dataset, parts: Parts, mesh: Mesh) -> Callable[[dict], dict[str, float]]:
    statistics = statistics_of(parts.spec.mean, parts.spec.std)
    data = place_probe_data(dataset, (parts.labeled, parts.drawn), statistics, mesh)
    probe = make_probe(parts.model, mesh)
    return lambda variables: probe(variables, data)


def build_parts(config: Any, dataset: Dataset, split: Split, platform: str | None = None) -> Parts:
    """Build the components of the step of `config`; the network is not evaluated.

    Args:
      config: settings of the run, completed by the recipe.
      platform: 'cpu', 'gpu' or 'tpu', where the step will run; None: this machine's.
    """
    labeled, unlabeled = training_pools(config, dataset, split)
    model, dtype = build_model(config, dataset.num_classes, platform)
    method = build_method(config, model)
    if method.unlabeled and not len(unlabeled):
        raise UserError(
            f'data.num_labels={config.data.num_labels} leaves no unlabeled image; give images without '
            'labels, use fewer labels, or train on labels alone with method.name=supervised'
        )
    _check_strong_view(config, method, dataset.image_shape)
    drawn = unlabeled if method.unlabeled else unlabeled[:0]
    spec = input_spec(config, dataset, np.union1d(labeled, unlabeled))
    pipeline = build_pipeline(config, dataset, labeled, drawn, spec, method.second_view)
    tx = build_optimizer(config, model)
    return Parts(model, dtype, method, tx, labeled, unlabeled, drawn, spec, pipeline)


def _describe(
    config: Any,
    dataset: Dataset,
    parts: Parts,
    held_out: dict[str, tuple[Any, np.ndarray]],
    variables: dict,
    mesh: Mesh,
) -> str:
    counts = {'labeled': len(parts.labeled), 'unlabeled': len(parts.unlabeled)}
    counts |= {name: len(labels) for name, (_, labels) in held_out.items()}
    num_params = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
    samples, axes = ('samples', 'features') if dataset.has_features else ('images', 'pixels')
    devices = f'{mesh.size} × {jax.default_backend()}' if mesh.size > 1 else jax.default_backend()
    if jax.process_count() > 1:
        devices += f' in {jax.process_count()} processes'
    return (
        f'{config.data.name}: {", ".join(f"{n:,} {name}" for name, n in counts.items())} {samples} of '
        f'{dataset.num_classes} classes; {config.model.name}, {num_params:,} parameters, '
        f'{"×".join(map(str, dataset.image_shape))} {axes}'
        f'{" from disk" if on_disk(dataset.train_images) else ""}, {parts.dtype.name} on {devices}'
    )


def rescheduled(experiment: Experiment, config: Any) -> Experiment:
    """`experiment` with the schedule of `config`, whose other settings are the same."""
    method, tx = build_method(config, experiment.model), build_optimizer(config, experiment.model)
    return experiment._replace(
        config=config, make_train_step=lambda lr_factor: build_train_step(config, method, tx, lr_factor)
    )


def build_model(config: Any, num_classes: int, platform: str | None = None) -> tuple[nn.Module, Any]:
    """The network of `config`, and its dtype on `platform` (None: this machine's)."""
    dtype = config.dtype
    if dtype == 'auto':
        dtype = 'float32' if (platform or jax.default_backend()) == 'cpu' else 'bfloat16'
    dtype = jnp.dtype(dtype)
    own = {name: value for name, value in config.model.items() if name not in ('name', 'init_from')}
    options = {name: value for name, value in own.items() if value is not None}
    return create_model(config.model.name, num_classes, dtype=dtype, **options), dtype


def state_shapes(
    config: Any, model: nn.Module, image_shape: tuple[int, ...], method_state: Any = None
) -> TrainState:
    """Shapes and dtypes of the state of a run of `config`, into which its checkpoints are restored."""
    tx, with_ema = build_optimizer(config, model), config.ema_decay > 0
    return jax.eval_shape(
        lambda variables: TrainState.create(variables, tx, with_ema=with_ema, method_state=method_state),
        variable_shapes(model, image_shape),
    )


def build_optimizer(config: Any, model: nn.Module | None = None) -> optax.GradientTransformation:
    """The optimizer of `config` without its learning rate; the frozen layers of `model` do not change."""
    optimizer = config.optimizer
    tx = make_optimizer(
        optimizer.name,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        weight_decay_on=optimizer.weight_decay_on,
    )
    # Configs of older runs lack this field.
    body_lr_scale = optimizer.get('body_lr_scale', 1.0)
    return by_layer(tx, head=HEAD, frozen=frozen_layers(model), body_lr_scale=body_lr_scale)


def _lr_schedule(config: Any, factor: float) -> Schedule:
    optimizer = config.optimizer
    cosines = {'cosine': warmup_cosine_schedule, 'cosine_7_16': cosine_7_16_schedule}
    if optimizer.schedule in cosines:
        return cosines[optimizer.schedule](
            factor * optimizer.lr, warmup_steps=optimizer.warmup_steps, total_steps=config.total_steps
        )
    return warmup_piecewise_schedule(
        factor * optimizer.lr, warmup_steps=optimizer.warmup_steps, milestones=optimizer.milestones
    )


def build_method(config: Any, model: nn.Module) -> Method:
    """The method of `config` for `model`; an option that is None keeps the method's default.

    Raises:
      UserError: an unknown method or option, or a teacher without `ema_decay`.
    """
    options = {name: value for name, value in config.method.items() if name != 'name' and value is not None}
    if 'total_steps' in method_options(config.method.name):
        options['total_steps'] = config.total_steps
    undropped = config.undropped_statistics
    network = as_network(model, undropped_statistics=undropped, frozen=frozen_layers(model))
    method = create_method(config.method.name, network, **options)
    if method.teacher and not config.ema_decay:
        raise UserError(
            f'method.name={config.method.name} learns from averaged weights, and ema_decay=0 keeps none; '
            'add ema_decay=0.999'
        )
    return method


def _check_strong_view(config: Any, method: Method, image_shape: tuple[int, int, int]) -> None:
    side = max(image_shape[:2])
    if method.second_view == 'strong' and config.data.strong == 'google' and side <= GOOGLE_CUTOUT // 2:
        raise UserError(
            f'data.strong=google cuts {GOOGLE_CUTOUT}×{GOOGLE_CUTOUT} pixels out, all of an image of '
            f'{side}×{side}; use data.strong=usb or affine'
        )


def build_train_step(
    config: Any, method: Method, tx: optax.GradientTransformation, lr_factor: float = 1.0
) -> StepFn:
    """The step of `config`, with `lr_factor` on its learning rate."""
    return make_train_step(
        method,
        tx,
        lr_schedule=_lr_schedule(config, lr_factor),
        ema_decay=config.ema_decay,
        ema_convention=config.ema_convention,
    )
