"""300 steps of each method on real digits, in float64, with a small network and views of its own.

`PYTHONPATH=. python tests/helpers/digits_runs.py` writes tests/data/golden_losses.json anew:
the losses of the first ten steps.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from metasemi_jax.batch import Batch
from metasemi_jax.methods import METHODS, create_method, method_options
from metasemi_jax.optimizer import make_optimizer
from metasemi_jax.train_step import TrainState, make_train_step

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden_losses.json'
GOLDEN_STEPS, TOTAL_STEPS = 10, 300
LABELED_PER_CLASS, NUM_CLASSES, BATCH_SIZE = 2, 10, 16
# All other methods run with the published settings, their defaults. MixMatch's weight of 75, reached after a
# 64th of the run, is for a run that is thousands of times as long: here that is after 5 steps, and it ends at
# 2.8 where the labels alone end at 1.2.
OPTIONS = {
    'mixmatch': {'consistency_weight': 10.0, 'rampup_share': 0.4},
    'fixmatch with meta': {'meta': True},
}
VARIANTS = [*METHODS, 'fixmatch with meta']


class Mlp(nn.Module):
    """Two layers with BatchNorm."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(48, use_bias=False, param_dtype=float)(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, param_dtype=float)(x)
        return nn.Dense(NUM_CLASSES, param_dtype=float)(nn.leaky_relu(x, 0.1))


@functools.cache
def digits():
    """Images [N, 8, 8, 1] about 0, labels; positions of labeled, unlabeled and test images."""
    bunch = load_digits()
    images, labels = (bunch.images[..., None] / 16 - 0.3) / 0.38, bunch.target
    train = np.arange(1297)
    labeled = np.concatenate([train[labels[train] == k][:LABELED_PER_CLASS] for k in range(NUM_CLASSES)])
    return images, labels, labeled, np.setdiff1d(train, labeled), np.arange(1297, len(images))


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by up to a pixel."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='edge')
    offsets = rng.integers(0, 3, (len(images), 2))
    return np.stack([p[y : y + 8, x : x + 8] for p, (y, x) in zip(padded, offsets, strict=True)])


def strong(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moved, of another contrast, and with a square of 3 × 3 pixels cut out: a strong view without Pillow."""
    images = shifted(images, rng) * rng.uniform(0.6, 1.4, (len(images), 1, 1, 1))
    for image, (y, x) in zip(images, rng.integers(0, 6, (len(images), 2)), strict=True):
        image[y : y + 3, x : x + 3] = 0
    return images


@functools.cache
def batches(second: str | None) -> Batch:
    """All steps' batches, stacked; the same images for every method."""
    images, labels, labeled, unlabeled, _ = digits()
    rng, steps = np.random.default_rng(0), []
    for _ in range(TOTAL_STEPS):
        own, ids = rng.choice(labeled, BATCH_SIZE), rng.choice(len(unlabeled), BATCH_SIZE, replace=False)
        weak = shifted(images[unlabeled[ids]], rng)
        view = {None: None, 'weak': shifted, 'strong': strong}[second]
        other = None if view is None else view(images[unlabeled[ids]], np.random.default_rng(len(steps)))
        steps.append(Batch(shifted(images[own], rng), labels[own], weak, labels[unlabeled[ids]], other, ids))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *steps)


def train(variant: str, steps: int = TOTAL_STEPS) -> Iterator[tuple[float, dict]]:
    """(loss, variables) of each step, the loss that before it; float64 needs `jax.enable_x64`, and
    Flax's BatchNorm there JAX's standard promotion."""
    name, options = variant.split(' ')[0], OPTIONS.get(variant, {})
    if 'total_steps' in method_options(name):
        options = options | {'total_steps': TOTAL_STEPS}
    model = Mlp()
    method = create_method(name, model, **options)
    tx = make_optimizer('sgd', momentum=0.9, weight_decay=5e-4)

    def loss_that_shows(params, inputs, keys):
        loss, outcome = method.loss(params, inputs, keys)
        return loss, outcome._replace(state=(outcome.state, loss))

    step = jax.jit(
        make_train_step(
            method._replace(loss=loss_that_shows),
            tx,
            lr_schedule=lambda step: 0.05 * jnp.minimum(1, (step + 1) / 20).astype(float),
            ema_decay=0.95,
        )
    )
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    _, _, _, unlabeled, _ = digits()
    own = method.init(NUM_CLASSES, len(unlabeled))
    state = TrainState.create(variables, tx, with_ema=True, method_state=own)
    everything = batches(method.second_view)
    for number in range(steps):
        batch = jax.tree.map(lambda leaf, number=number: leaf[number], everything)
        state, _ = step(state, batch, jax.random.key(number))
        own, loss = state.method
        state = state.replace(method=own)
        yield loss, {'params': state.params, 'batch_stats': state.batch_stats}


@jax.jit
def held_out_loss(variables: dict) -> jax.Array:
    """Mean cross-entropy of the images that no step saw."""
    images, labels, *_, test = digits()
    logits = Mlp().apply(variables, images[test], train=False)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[test]).mean()


def golden_losses() -> dict[str, list[float]]:
    """The losses of the first steps of each variant."""
    return {name: [float(loss) for loss, _ in train(name, GOLDEN_STEPS)] for name in VARIANTS}


if __name__ == '__main__':
    with jax.enable_x64(True):
        GOLDEN.write_text(json.dumps(golden_losses(), indent=1) + '\n')
    print(f'written to {GOLDEN}')
