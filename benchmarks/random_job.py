"""The step of a config on random pixels, so that a benchmark needs no data set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from metasemi_jax.config.checks import check_config
from metasemi_jax.data.batches.resident import Pipeline, resident_pipeline
from metasemi_jax.data.batches.views import make_views
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.sampling import Sampling
from metasemi_jax.distributed.sharding import check_batch_size, place, replicated
from metasemi_jax.errors import UserError
from metasemi_jax.models import init_variables
from metasemi_jax.train_step import TrainState
from metasemi_jax.training.experiment import build_method, build_model, build_optimizer, build_train_step
from metasemi_jax.training.multi_step import make_run_steps, place_host_batches

# image shape, classes, labeled images, training images that the benchmark keeps on the device
FORMS = {
    'digits': ((8, 8, 1), 10, 50, 1297),
    'mnist': ((28, 28, 1), 10, 100, 8000),
    'svhn_cropped': ((32, 32, 3), 10, 1000, 73_257),
    'cifar10': ((32, 32, 3), 10, 4000, 50_000),
    'cifar100': ((32, 32, 3), 100, 10_000, 50_000),
    # Streamed in earnest; here its step alone is of interest.
    'imagenet2012': ((224, 224, 3), 1000, 128, 1024),
}


class Job(NamedTuple):
    """All that a call of `run_steps` takes, and the parts that it was made of."""

    model: Any
    image_shape: tuple[int, ...]
    dtype: np.dtype
    state: TrainState
    pipeline: Pipeline
    run_steps: Any
    device_data: Any
    key: jax.Array
    mesh: Mesh
    max_steps: int

    def args(self, state: TrainState, batches: Any) -> tuple:
        """Of the next call, the host's part included."""
        sent = place_host_batches(batches, self.max_steps, self.max_steps, self.mesh)
        return state, self.device_data, *sent, self.key

    def runner(self, run_steps: Callable[..., Any]) -> Callable[[int], int]:
        """A function that does at least so many steps, in whole calls, waits for them and returns how many.

        `run_steps`: the job's own, or what it was compiled to. Only one runner of a job can be used: it
        donates the job's state.
        """
        state, batches = self.state, self.pipeline.host_batches(0)

        def run(steps: int) -> int:
            nonlocal state
            done = 0
            while done < steps:
                state, sums = run_steps(*self.args(state, batches))
                done += self.max_steps
            jax.block_until_ready(sums)
            return done

        return run


def _random_dataset(count: int, shape: tuple[int, ...], num_classes: int) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        rng.integers(0, 256, (count, *shape), dtype=np.uint8),
        rng.integers(0, num_classes, count).astype(np.int32),
        np.arange(count).astype(str),
        None,
        None,
        tuple(map(str, range(num_classes))),
    )


def make_job(config: Any, mesh: Mesh, *, max_steps: int = 1, num_classes: int | None = None) -> Job:
    """Build the step of `config` and place random images of its data set's shape on the devices of `mesh`.

    `num_classes`: by default as many as the data set has.
    """
    if config.data.name not in FORMS:
        raise UserError(f"data.name '{config.data.name}' is none of {', '.join(FORMS)}")
    check_config(config)
    check_batch_size(config.batch_size, mesh.size)
    shape, classes_there, num_labeled, count = FORMS[config.data.name]
    num_classes = num_classes or classes_there
    dataset = _random_dataset(count, shape, num_classes)
    channels = shape[-1]
    model, dtype = build_model(config, num_classes)
    method = build_method(config, model)
    pipeline = resident_pipeline(
        dataset,
        Sampling(
            np.arange(num_labeled),
            np.arange(num_labeled, count),
            config.batch_size,
            config.seed,
            config.unlabeled_ratio,
        ),
        make_views(
            pad=config.data.pad,
            pad_mode=config.data.pad_mode,
            flip=config.data.flip,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            second=method.second_view,
            strong=config.data.strong,
        ),
    )
    tx = build_optimizer(config)
    everywhere = replicated(mesh)
    state = TrainState.create(
        init_variables(model, jax.random.key(0), shape),
        tx,
        with_ema=config.ema_decay > 0,
        method_state=method.init(num_classes, count - num_labeled),
    )
    run_steps = make_run_steps(
        build_train_step(config, method, tx), pipeline.to_batch, max_steps=max_steps, mesh=mesh
    )
    return Job(
        model,
        shape,
        dtype,
        place(jax.device_get(state), everywhere),
        pipeline,
        run_steps,
        place(pipeline.device_data, everywhere),
        jax.device_put(jax.random.key(0), everywhere),
        mesh,
        max_steps,
    )
