"""One training step of a published network, some of its layers frozen."""

import jax
import jax.numpy as jnp
import numpy as np

from metasemi_jax.methods import as_network, create_method
from metasemi_jax.models import create_model, init_variables
from metasemi_jax.models.trained_parts import HEAD, frozen_layers
from metasemi_jax.optimizer import by_layer, make_optimizer
from metasemi_jax.train_step import Batch, TrainState, make_train_step


def step_of(name, sizes, trained_blocks, method):
    """One step at a high rate and weight decay: the state before it and after it."""
    side = 28 if name.startswith('dino') else 32
    model = create_model(name, 3, trained_blocks=trained_blocks, **sizes)
    frozen = frozen_layers(model)
    tx = by_layer(make_optimizer('sgd', weight_decay=0.1), head=HEAD, frozen=frozen)
    network = as_network(model, frozen=frozen)
    variables = init_variables(model, jax.random.key(0), (side, side, 3))
    x = jax.random.normal(jax.random.key(1), (2, side, side, 3))
    batch = Batch(x, jnp.arange(2), x + 1, jnp.arange(2), x - 1, jnp.arange(2))
    state = TrainState.create(variables, tx, with_ema=True)
    step = make_train_step(create_method(method, network), tx, lr_schedule=lambda _: 0.1, ema_decay=0.9)
    return frozen, state, *jax.jit(step)(state, batch, jax.random.key(2))


def moved(before, after):
    """Names of the layers of which anything has moved."""
    return {
        name
        for name in before
        if any(
            not np.array_equal(old, new)
            for old, new in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True)
        )
    }


def check_step(name, sizes, trained_blocks, method):
    """A step moves the trained layers and their statistics, and nothing of the frozen ones."""
    frozen, before, after, metrics = step_of(name, sizes, trained_blocks, method)
    assert all(
        np.isfinite(total) for total, _ in jax.tree.leaves(metrics, is_leaf=lambda x: isinstance(x, tuple))
    )
    assert moved(before.params, after.params) == before.params.keys() - frozen
    assert moved(before.batch_stats, after.batch_stats) == before.batch_stats.keys() - frozen
    assert bool(before.batch_stats) == (not name.startswith(('vit', 'dino')))
    # Momentum is kept for what is trained alone.
    trained = [
        leaf for name, layer in before.params.items() if name not in frozen for leaf in jax.tree.leaves(layer)
    ]
    assert len(jax.tree.leaves(after.opt_state)) == len(trained)
