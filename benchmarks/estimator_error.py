"""The error of `jvp` and `finite_difference` by precision, against `exact` in float64: a Markdown table.

    XLA_FLAGS=--xla_allow_excess_precision=false python -m benchmarks.estimator_error

The flag matters on a CPU, where XLA would otherwise keep some of the float32 precision in bfloat16. ConvLarge
with the weights and images of tests/data/convlarge_mixup.npz; parameters are float32 where the network
computes in bfloat16, as in training.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metasemi_jax.meta_gradient import ESTIMATORS, finite_difference
from metasemi_jax.methods.losses import cross_entropy, squared_error
from metasemi_jax.models import create_model
from metasemi_jax.torch_import import convert_state_dict
from tests.helpers.reference_runs import initial_state_dict, load

NET = 'conv_large'
EPSILONS = (1e-1, 1e-2, 1e-3, 1e-4)


def meta_gradient(run, estimate, dtype) -> np.ndarray:
    """The meta-gradient [B, K] of the run's first step, without the factor lr."""
    wide = jnp.promote_types(dtype, jnp.float32)
    model = create_model(NET, int(run['num_classes']), dtype=dtype)
    variables = convert_state_dict(NET, initial_state_dict(NET, run))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, wide), variables)
    images = {
        name: jnp.asarray(run[f'{name}_images'][0].transpose(0, 2, 3, 1), wide)
        for name in ('labeled', 'unlabeled')
    }
    labels = jnp.asarray(run['labels'][0])

    def logits(params, kind):
        return model.apply({**variables, 'params': params}, images[kind], train=False)

    def outer_loss(params):
        return jnp.mean(cross_entropy(logits=logits(params, 'labeled'), labels=labels))

    def inner_loss(params, pseudo_labels):
        return jnp.sum(
            squared_error(probs=jax.nn.softmax(logits(params, 'unlabeled')), targets=pseudo_labels)
        )

    @jax.jit
    def run_estimator(params):
        pseudo_labels = jax.nn.softmax(logits(params, 'unlabeled'))
        return estimate(outer_loss, inner_loss, params, pseudo_labels, lr=1.0)

    return np.asarray(run_estimator(variables['params']), np.float64)


def main() -> None:
    """Print the table."""
    run = load('convlarge_mixup')
    estimators = {'`jvp`': ESTIMATORS['jvp']}
    for epsilon in EPSILONS:
        label = f'`finite_difference`, epsilon {epsilon:g}' + (" (the paper's)" if epsilon == 1e-2 else '')
        estimators[label] = functools.partial(finite_difference, epsilon=epsilon)
    jax.config.update('jax_enable_x64', True)
    truth = meta_gradient(run, ESTIMATORS['exact'], jnp.float64)
    print('| estimator | float64 | float32 | bfloat16 |\n|---|---|---|---|')
    for label, estimate in estimators.items():
        cells = []
        for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
            error = meta_gradient(run, estimate, dtype) - truth
            cells.append(f'{np.linalg.norm(error) / np.linalg.norm(truth):.1e}')
        print(f'| {label} | {" | ".join(cells)} |', flush=True)


if __name__ == '__main__':
    main()
