"""The loss of a step from a method's pieces."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from metasemi_jax.methods.losses import cross_entropy
from metasemi_jax.methods.meta import ExampleLoss
from metasemi_jax.methods.method import Aux, Inputs, Keys, Outcome, Params, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.passes import PASSES, JointPass, SeparatePasses, needed_views

Passes = SeparatePasses | JointPass


class Pieces(NamedTuple):
    """The arguments of `semi_supervised` of the same names; `find_targets` has its own bound."""

    network: Network
    find_targets: Callable[[Inputs, Array], Targets] | None
    predict: str
    labeled_loss: ExampleLoss
    unlabeled_loss: ExampleLoss | None
    weight: Callable[[Array], Array] | float
    extra: Callable[..., Array] | None
    batch_norm: str
    second_view: str | None


def step_loss(pieces: Pieces, params: Params, inputs: Inputs, keys: Keys) -> tuple[Array, Outcome]:
    """mean(labeled_loss) + weight·mean(weights·unlabeled_loss) + extra, to be differentiated in `params`.

    Args:
      pieces: the arguments of `semi_supervised` that make the method.
      params: θ, with gradient; `inputs.params` holds the same numbers as constants.
      inputs: state before the step, and the batch.
      keys: randomness of the step.

    Returns:
      The loss, a scalar, and the outcome: statistics and the method's state after the step, and what to log.

    Raises:
      ValueError: the batch lacks the second view that the method needs.
    """
    inputs = inputs._replace(batch=needed_views(inputs.batch, pieces.second_view))
    passes = PASSES[pieces.batch_norm](
        pieces.network, params, inputs, keys, pieces.predict, pieces.batch_norm
    )
    found = None
    if pieces.find_targets is not None:
        found = jax.lax.stop_gradient(pieces.find_targets(passes.inputs, keys.draw))
    loss = _labeled_part(pieces, passes, inputs, found)
    aux = {'classification_loss': loss}
    if found is not None and pieces.unlabeled_loss is not None:
        loss, scalars = _with_unlabeled_part(pieces, passes, inputs, found, loss)
        aux |= scalars
    aux['loss'] = loss
    if found is None:
        return loss, Outcome(passes.batch_stats, inputs.state, aux)
    aux |= {'initial': found.initial, 'labels': found.labels} | (found.aux or {})
    if found.weights is not None:
        aux['weights'] = found.weights
    state = inputs.state if found.state is None else found.state
    return loss, Outcome(passes.batch_stats, state, aux)


def _labeled_part(pieces: Pieces, passes: Passes, inputs: Inputs, found: Targets | None) -> Array:
    if found is None or found.labeled is None:
        logits = passes.labeled(inputs.batch.labeled_images)
        return jnp.mean(cross_entropy(logits=logits, labels=inputs.batch.labels))
    images, labels = found.labeled
    return jnp.mean(pieces.labeled_loss(logits=passes.labeled(images), targets=labels))


def _with_unlabeled_part(
    pieces: Pieces, passes: Passes, inputs: Inputs, found: Targets, loss: Array
) -> tuple[Array, Aux]:
    logits = passes.unlabeled(found.student_images(inputs.batch))
    losses = pieces.unlabeled_loss(logits=logits, targets=found.labels)
    consistency = jnp.mean(losses if found.weights is None else found.weights * losses)
    weight = pieces.weight(inputs.step) if callable(pieces.weight) else pieces.weight
    weight = jnp.asarray(weight, float)
    loss = loss + weight.astype(consistency.dtype) * consistency
    aux = {'consistency_loss': consistency, 'consistency_weight': weight}
    if pieces.extra is not None:
        aux['extra_loss'] = pieces.extra(passes.forward, logits, found, inputs)
        loss = loss + aux['extra_loss']
    return loss, aux
