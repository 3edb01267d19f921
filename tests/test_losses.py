import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.methods.losses import cross_entropy, kl_divergence, squared_error

# softmax(LOGITS) = (½, ¼, ¼) and (⅛, ⅛, ¾).
PROBS = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])
LOGITS = np.log(PROBS) + np.array([[1.0], [-2.0]])


def test_cross_entropy_by_hand():
    losses = cross_entropy(logits=LOGITS.astype(np.float32), labels=np.array([1, 2], np.int32))
    np.testing.assert_allclose(losses, [np.log(4), np.log(4 / 3)], rtol=1e-6)


def test_kl_divergence_by_hand():
    # Row 1: one-hot, so -log ¼. Row 2: ½ log(½ / ⅛) twice = log 4.
    targets = np.array([[0, 1, 0], [0.5, 0.5, 0]], np.float32)
    losses = kl_divergence(logits=LOGITS.astype(np.float32), targets=targets)
    np.testing.assert_allclose(losses, [np.log(4), np.log(4)], rtol=1e-6)


def test_kl_divergence_keeps_the_entropy(x64):
    np.testing.assert_allclose(kl_divergence(logits=LOGITS, targets=PROBS), [0, 0], atol=1e-15)


def test_kl_divergence_of_targets_that_do_not_sum_to_one(x64):
    # ½ log(½ / ½) = 0 with 0·log 0 = 0; an all-zero row costs nothing.
    targets = np.array([[0.5, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(kl_divergence(logits=LOGITS, targets=targets), [0, 0], atol=1e-15)


def test_kl_divergence_gradient_by_hand(x64):
    # ∂/∂logits of -Σ y log softmax = softmax · Σy - y, finite where y has zeros.
    targets = np.array([[0, 1, 0], [0.5, 0, 0]])
    gradient = jax.grad(lambda z: jnp.sum(kl_divergence(logits=z, targets=targets)))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(gradient, PROBS * [[1], [0.5]] - targets, atol=1e-15)


def test_squared_error_by_hand():
    # Summed over the classes, without ½: 0.25 + 0.5625 + 0.0625 = 0.875.
    targets = np.array([[0, 1, 0], PROBS[1]], np.float32)
    losses = squared_error(probs=PROBS.astype(np.float32), targets=targets)
    np.testing.assert_allclose(losses, [0.875, 0], rtol=1e-6)


@pytest.mark.parametrize('loss', [kl_divergence, squared_error])
def test_one_loss_for_each_example_in_float64(loss, x64):
    rng = np.random.default_rng(0)
    predictions, targets = rng.dirichlet(np.ones(7), (2, 5))
    name = 'logits' if loss is kl_divergence else 'probs'
    together = loss(**{name: predictions}, targets=targets)
    alone = [loss(**{name: predictions[i : i + 1]}, targets=targets[i : i + 1])[0] for i in range(5)]
    assert together.dtype == np.float64
    np.testing.assert_allclose(together, alone, rtol=1e-14)
