"""A method from its pieces: targets for the unlabeled images, a loss for each part of the batch, a weight."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metasemi_jax.methods.find_targets import find_targets
from metasemi_jax.methods.losses import cross_entropy, soft_cross_entropy
from metasemi_jax.methods.meta import ExampleLoss, Meta, student_images
from metasemi_jax.methods.method import Inputs, Keys, Method, Outcome, Params, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.passes import PASSES, needed_views

Array = jax.Array


class _Pieces(NamedTuple):
    """What a loss needs; but for `find_targets` the arguments of `semi_supervised` of the same names."""

    network: Network
    find_targets: Callable[[Inputs, Array], Targets] | None
    predict: str
    labeled_loss: ExampleLoss
    unlabeled_loss: ExampleLoss | None
    weight: Callable[[Array], Array]
    extra: Callable[..., Array] | None
    batch_norm: str
    second_view: str | None


def semi_supervised(
    network: Network,
    *,
    targets: Callable[[Inputs, Array], Targets] | None,
    select: Callable[[Targets, Inputs], Targets] | None = None,
    meta: Meta | None = None,
    mix: Callable[[Targets, Inputs, Array], Targets] | None = None,
    predict: str = 'training',
    labeled_loss: ExampleLoss = soft_cross_entropy,
    unlabeled_loss: ExampleLoss | None = soft_cross_entropy,
    weight: Callable[[Array], Array] = lambda step: jnp.ones((), float),
    extra: Callable[..., Array] | None = None,
    batch_norm: str = 'labeled',
    init: Callable[[int, int], Any] = lambda num_classes, num_images: {},
    second_view: str | None = None,
) -> Method:
    """The method with the loss mean(labeled_loss) + weight·mean(weights·unlabeled_loss) + extra.

    Both means run over all images, masked ones included.

    Args:
      network: the student.
      targets: (inputs, key) -> what the unlabeled images should be called; soft labels where `select` is
        given. None: the method looks at no unlabeled image.
      select: (targets, inputs) -> hard labels and weights of soft ones.
      meta: moves the targets against the meta-gradient: soft labels before `select`, weights after it.
      mix: (targets, inputs, key) -> the same with `labeled`, images mixed by means of the final targets.
      predict: whose logits `inputs.weak_logits` and `inputs.predict` are. 'training': the student's, with
        dropout masks of their own; 'same_pass': with the masks of the student's training pass, which XLA
        then computes once; 'evaluation': with running statistics, without dropout; 'teacher': those of the
        EMA weights, in training mode.
      labeled_loss: of `Targets.labeled`; an unmixed labeled batch has the cross-entropy.
      unlabeled_loss: None trains on the labeled part alone.
      weight: step -> weight of the unlabeled loss.
      extra: (forward, logits, targets, inputs) -> scalar, added to the loss. `forward` is the student in
        training mode, with gradient; `logits` are its logits of the images that the targets name.
      batch_norm: which passes move the running statistics: the 'labeled' one alone; 'every' one in turn,
        labeled, then unlabeled; or one 'joint' pass over labeled images, weak and second view.
      init: (number of classes, number of unlabeled images) -> the method's own state.
      second_view: 'weak' or 'strong': what the second view is; None where there is none.

    Raises:
      ValueError: an unknown `predict` or `batch_norm`, or a joint pass without a second view.
    """
    if predict not in ('training', 'same_pass', 'evaluation', 'teacher'):
        raise ValueError(f'predict={predict!r} is none of training, same_pass, evaluation, teacher')
    if batch_norm not in PASSES or (batch_norm == 'joint' and second_view is None):
        raise ValueError(f'batch_norm={batch_norm!r} is none of {", ".join(PASSES)}, or lacks a second view')
    find = None
    if targets is not None:
        find = functools.partial(
            find_targets, targets, select=select, meta=meta, mix=mix, network=network, loss=unlabeled_loss
        )
    losses = labeled_loss, unlabeled_loss
    pieces = _Pieces(network, find, predict, *losses, weight, extra, batch_norm, second_view)
    teacher = predict == 'teacher'
    return Method(functools.partial(_loss, pieces), init, second_view, find is not None, teacher)


def _loss(pieces: _Pieces, params: Params, inputs: Inputs, keys: Keys) -> tuple[Array, Outcome]:
    inputs = inputs._replace(batch=needed_views(inputs.batch, pieces.second_view))
    passes = PASSES[pieces.batch_norm](
        pieces.network, params, inputs, keys, pieces.predict, pieces.batch_norm
    )
    found = None
    if pieces.find_targets is not None:
        found = jax.lax.stop_gradient(pieces.find_targets(passes.inputs, keys.draw))
    if found is None or found.labeled is None:
        logits = passes.labeled(inputs.batch.labeled_images)
        loss = jnp.mean(cross_entropy(logits=logits, labels=inputs.batch.labels))
    else:
        images, labels = found.labeled
        loss = jnp.mean(pieces.labeled_loss(logits=passes.labeled(images), targets=labels))
    aux = {'classification_loss': loss}
    if found is not None and pieces.unlabeled_loss is not None:
        logits = passes.unlabeled(student_images(found, inputs.batch))
        losses = pieces.unlabeled_loss(logits=logits, targets=found.labels)
        consistency = jnp.mean(losses if found.weights is None else found.weights * losses)
        weight = jnp.asarray(pieces.weight(inputs.step), float)
        loss = loss + weight.astype(consistency.dtype) * consistency
        aux |= {'consistency_loss': consistency, 'consistency_weight': weight}
        if pieces.extra is not None:
            aux['extra_loss'] = pieces.extra(passes.forward, logits, found, inputs)
            loss = loss + aux['extra_loss']
    aux['loss'] = loss
    if found is None:
        return loss, Outcome(passes.batch_stats, inputs.state, aux)
    aux |= {'initial': found.initial, 'labels': found.labels} | (found.aux or {})
    if found.weights is not None:
        aux['weights'] = found.weights
    state = inputs.state if found.state is None else found.state
    return loss, Outcome(passes.batch_stats, state, aux)
