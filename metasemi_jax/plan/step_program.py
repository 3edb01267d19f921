"""The step of a config as training calls it, lowered for devices that are not here."""

import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metasemi_jax.config.form import with_fields
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.splits import Split
from metasemi_jax.distributed.sharding import check_batch_size
from metasemi_jax.plan.devices import COMPILER_OPTIONS
from metasemi_jax.training.choices import with_choices
from metasemi_jax.training.experiment import Parts, build_parts, build_train_step, state_shapes
from metasemi_jax.training.experiment_data import eval_images, on_disk
from metasemi_jax.training.multi_step import make_run_steps, steps_per_call

PyTree = Any


class StepProgram(NamedTuple):
    """A lowered step, and its sizes."""

    config: Any  # settings, completed by the recipe
    lowered: Any  # jax.stages.Lowered
    dtype: str  # of the network's computation
    steps_per_call: int
    num_params: int
    state_bytes: int  # on each device, without padding
    eval_bytes: int  # evaluation images on each device, which the step does not take


def lower_step(config: Any, dataset: Dataset, split: Split, mesh: Mesh) -> StepProgram:
    """The program that a run of `config` calls on the devices of `mesh`.

    Args:
      config: settings that `check_config` has passed.
      dataset: the data of `config`; of the images only the shapes count.
      split: the labeled and held-out images of `dataset`.
      mesh: devices that the compiler knows.

    Raises:
      UserError: settings that do not fit the data or the number of devices.
    """
    platform = mesh.devices.flat[0].platform
    config, _ = with_choices(config, dataset, platform=platform)
    check_batch_size(config.batch_size, mesh.size)
    parts = build_parts(_in_this_process(config, dataset), dataset, split, platform)
    method_state = parts.method.init(dataset.num_classes, len(parts.unlabeled))
    state = state_shapes(config, parts.model, dataset.image_shape, method_state)
    streaming = not jax.tree.leaves(parts.pipeline.device_data)
    max_steps = steps_per_call(config, streaming=streaming, platform=platform)
    run = make_run_steps(
        build_train_step(config, parts.method, parts.tx),
        parts.pipeline.to_batch,
        max_steps=max_steps,
        mesh=mesh,
    )
    device_data = _shapes(parts.pipeline.device_data)
    batches = _host_batches(parts, max_steps)
    count = jax.ShapeDtypeStruct((), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return StepProgram(
        config,
        run.lower(state, device_data, batches, count, key),
        parts.dtype.name,
        max_steps,
        sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        _bytes(state),
        _eval_bytes(dataset, split, mesh.size),
    )


def compile_step(program: StepProgram, platform: str) -> tuple[Any, float]:
    """The compiled program, and the seconds that it took.

    Raises:
      jax.errors.JaxRuntimeError: 'RESOURCE_EXHAUSTED' where the compiler finds that it cannot fit.
    """
    start = time.perf_counter()
    compiled = program.lowered.compile(compiler_options=COMPILER_OPTIONS.get(platform) or None)
    return compiled, time.perf_counter() - start


def _in_this_process(config: Any, dataset: Dataset) -> Any:
    """`config` for the one batch that is made for its shapes: no workers, and no pixels looked at on disk."""
    fields = {'data.num_workers': 0}
    if not config.data.mean and on_disk(dataset.train_images):
        channels = dataset.image_shape[-1]
        fields |= {'data.mean': (0.5,) * channels, 'data.std': (0.25,) * channels}
    return with_fields(config, fields)


def _host_batches(parts: Parts, max_steps: int) -> PyTree:
    batches = parts.pipeline.host_batches(0)
    one = _shapes(next(batches))
    batches.close()
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((max_steps, *x.shape), x.dtype), one)


def _shapes(tree: PyTree) -> PyTree:
    # On the devices int64 is int32, as JAX places it.
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)), tree)


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _eval_bytes(dataset: Dataset, split: Split, num_devices: int) -> int:
    held = [images for images, _ in eval_images(dataset, split).values() if not on_disk(images)]
    return sum(math.ceil(math.prod(images.shape) / num_devices) * images.dtype.itemsize for images in held)
