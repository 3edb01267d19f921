"""The reference runs in tests/data, played through this program.

`python tests/helpers/reference_runs.py` writes tests/data/jvp_float64.npz anew: the metrics of
`convlarge_mixup` with the meta-gradient by `jvp` in float64, which the float32 test compares with.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasemi_jax.batch import Batch
from metasemi_jax.models import create_model
from metasemi_jax.optimizer import make_optimizer
from metasemi_jax.torch_import import convert_state_dict, to_state_dict
from metasemi_jax.train_step import metasemi_grads

DATA = Path(__file__).parents[1] / 'data'
NETS = {'convlarge_mixup': 'conv_large', 'convlarge_plain': 'conv_large', 'shake_shake26': 'shake_shake26'}
JVP_FIGURES = DATA / 'jvp_float64.npz'
CONVOLUTION = jax.lax.conv_general_dilated


def load(name: str) -> dict[str, np.ndarray]:
    """A reference run; its README's keys."""
    with np.load(DATA / f'{name}.npz') as file:
        return dict(file)


def initial_state_dict(net: str, run: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights that the run began with: the recipe of the reference runs, PyTorch's names and layouts."""
    model = create_model(net, int(run['num_classes']))
    image = jnp.zeros((1, *run['labeled_images'].shape[-2:], run['labeled_images'].shape[2]))
    shapes = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
    zeros = to_state_dict(net, jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes))
    rng = np.random.default_rng(int(run['seed']))
    return {key: _draw(rng, key, zeros[key].shape) for key in sorted(zeros)}


def _draw(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key.endswith('running_var'):
        return rng.uniform(0.8, 1.2, shape)
    if len(shape) == 4:
        return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    if len(shape) == 2:
        return rng.normal(0, 0.3 / np.sqrt(shape[1]), shape)
    if key.endswith('weight'):
        return rng.uniform(0.8, 1.2, shape)
    return rng.normal(0, 0.05, shape)


def play(
    net: str, run: dict[str, np.ndarray], *, dtype: jnp.dtype, estimator: str
) -> Iterator[dict[str, np.ndarray]]:
    """The metrics after each step, by the keys of `out/`; float64 needs `jax.enable_x64`."""
    model = create_model(net, int(run['num_classes']), dtype=dtype)
    tx = make_optimizer('sgd', momentum=float(run['momentum']), weight_decay=float(run['weight_decay']))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype), convert_state_dict(net, initial_state_dict(net, run))
    )
    params, batch_stats = variables['params'], variables['batch_stats']
    opt_state = tx.init(params)
    step = _make_step(model, tx, run, estimator)
    for t in range(int(run['steps'])):
        batch = Batch(
            _nhwc(run['labeled_images'][t], dtype),
            jnp.asarray(run['labels'][t]),
            _nhwc(run['unlabeled_images'][t], dtype),
        )
        scalars = (jnp.asarray(run[key][t], dtype) for key in ('mixup_lambda', 'lr', 'consistency_weight'))
        params, batch_stats, opt_state, grads, aux = step(params, batch_stats, opt_state, batch, *scalars)
        metrics = {key: np.asarray(value, np.float64) for key, value in aux.items()}
        # Ours has the inner step's learning rate in it, the official program's has not.
        metrics['pseudo_grad'] = metrics.pop('meta_gradient') / run['lr'][t]
        gradients = to_state_dict(net, {'params': grads})
        state = to_state_dict(net, {'params': params, 'batch_stats': batch_stats})
        metrics |= _summary('grad', gradients, run['param_names'])
        yield metrics | _summary('state', state, run['state_names'])


def _make_step(model, tx: optax.GradientTransformation, run: dict[str, np.ndarray], estimator: str):
    @jax.jit
    def step(params, batch_stats, opt_state, batch, mixup_lambda, lr, consistency_weight):
        grads, new_batch_stats, aux = metasemi_grads(
            model,
            params,
            batch_stats,
            batch,
            mixup_lambda=mixup_lambda if run['mixup'] else None,
            lr=lr,
            consistency_weight=consistency_weight,
            estimator=estimator,
            epsilon=float(run['epsilon']),
        )
        variables = {'params': params, 'batch_stats': batch_stats}
        aux['label_logits'] = model.apply(variables, batch.labeled_images, train=False)
        updates, opt_state = tx.update(grads, opt_state, params)
        # As in `make_train_step`, whose learning rate stays out of the optimizer too.
        new_params = jax.tree.map(lambda p, u: p - lr.astype(p.dtype) * u, params, updates)
        return new_params, new_batch_stats, opt_state, grads, aux

    return step


def _summary(kind: str, tensors: dict[str, np.ndarray], names: np.ndarray) -> dict[str, np.ndarray]:
    arrays = [tensors[key].astype(np.float64) for key in names]
    heads = [np.pad(array.ravel()[:4], (0, max(0, 4 - array.size))) for array in arrays]
    return {f'{kind}_norm': np.array([np.linalg.norm(a) for a in arrays]), f'{kind}_head': np.array(heads)}


def _nhwc(images: np.ndarray, dtype: jnp.dtype) -> jax.Array:
    return jnp.asarray(images.transpose(0, 2, 3, 1), dtype)


def convolution_by_products(images, kernel, strides, padding, *, precision=None, **options) -> jax.Array:
    """`jax.lax.conv_general_dilated` of Flax's `Conv`, as a product of the patches with the kernel.

    XLA has no fast convolution of float64 for CPUs: a step of ConvLarge takes 17 s with it, and 3 s so.
    """
    assert {*options['lhs_dilation'], *options['rhs_dilation']} == {1}
    if options['feature_group_count'] != 1:  # small ones, of Shake-Shake's shortcuts
        return CONVOLUTION(images, kernel, strides, padding, precision=precision, **options)
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    return _patches_times_kernel(images, kernel, tuple(strides), tuple(map(tuple, padding)))


# Jitted, to be traced once for layers of the same shape.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _patches_times_kernel(images, kernel, strides, padding):
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    height, width, _, features = kernel.shape
    rows, columns = (
        1 + (have - need) // stride
        for have, need, stride in zip(images.shape[1:3], (height, width), strides, strict=True)
    )
    down, along = strides
    patches = [
        images[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * along + 1 : along]
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, features)


def figures_of(
    name: str,
    *,
    dtype: jnp.dtype,
    estimator: str,
    by_products: bool = False,
    num_steps: int | None = None,
) -> dict[str, np.ndarray]:
    """The first steps of a run, by default all, stacked as in the reference file.

    Convolutions are XLA's own, or `by_products`.
    """
    # Flax's BatchNorm promotes float64 with float32, which strict promotion refuses.
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(dtype == jnp.float64))
        stack.enter_context(jax.numpy_dtype_promotion('standard'))
        if by_products:
            stack.enter_context(mock.patch('jax.lax.conv_general_dilated', convolution_by_products))
        played = play(NETS[name], load(name), dtype=dtype, estimator=estimator)
        steps = list(itertools.islice(played, num_steps))
    return {key: np.stack([metrics[key] for metrics in steps]) for key in steps[0]}


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest deviation over the largest entry."""
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


if __name__ == '__main__':
    np.savez_compressed(JVP_FIGURES, **figures_of('convlarge_mixup', dtype=jnp.float64, estimator='jvp'))
