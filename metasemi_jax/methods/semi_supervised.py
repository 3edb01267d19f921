"""A method from its pieces: targets for the unlabeled images, a loss for each part of the batch, a weight."""

import functools
from collections.abc import Callable
from typing import Any

from jax import Array

from metasemi_jax.methods.find_targets import find_targets
from metasemi_jax.methods.losses import soft_cross_entropy
from metasemi_jax.methods.meta import ExampleLoss, Meta
from metasemi_jax.methods.method import Inputs, Method, Targets
from metasemi_jax.methods.network import Network
from metasemi_jax.methods.passes import PASSES
from metasemi_jax.methods.step_loss import Pieces, step_loss


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
    weight: Callable[[Array], Array] | float = 1.0,
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
      select: (targets, inputs) -> hard labels, and weights, instead of soft labels.
      meta: moves the targets against the meta-gradient: soft labels before `select`, weights after it.
      mix: (targets, inputs, key) -> the same with `labeled`, images mixed by means of the final targets.
      predict: the source of the logits in `inputs.weak_logits` and `inputs.predict`. 'training': the
        student in training mode, with dropout masks of their own; 'same_pass': the student's own pass over
        the weak view; 'evaluation': the student with running statistics, without dropout;
        'teacher': the EMA weights, in training mode.
      labeled_loss: loss of one image of `Targets.labeled`; an unmixed labeled batch has the cross-entropy.
      unlabeled_loss: loss of one unlabeled image; None trains on the labeled part alone.
      weight: weight of the unlabeled loss, or step -> weight.
      extra: (forward, logits, targets, inputs) -> scalar, added to the loss. `forward` is the student in
        training mode, with gradient, or None with a joint pass; `logits` are its logits of the images that
        the targets name.
      batch_norm: which passes move the running statistics: the 'labeled' one alone; 'every' one in turn,
        labeled, then unlabeled; or one 'joint' pass over labeled images, weak and second view.
      init: (number of classes, number of unlabeled images) -> the method's own state.
      second_view: 'weak' or 'strong': what the second view is; None where there is none.

    Raises:
      ValueError: an unknown `predict` or `batch_norm`, or a joint pass without a second view, or with another
        `predict` than its own, 'training'.
    """
    if predict not in ('training', 'same_pass', 'evaluation', 'teacher'):
        raise ValueError(f'predict={predict!r} is none of training, same_pass, evaluation, teacher')
    if batch_norm not in PASSES or (batch_norm == 'joint' and second_view is None):
        raise ValueError(f'batch_norm={batch_norm!r} is none of {", ".join(PASSES)}, or lacks a second view')
    if batch_norm == 'joint' and predict != 'training':
        raise ValueError(f"predict={predict!r} needs a pass of its own; a joint pass has 'training'")
    find = None
    if targets is not None:
        find = functools.partial(
            find_targets, targets, select=select, meta=meta, mix=mix, network=network, loss=unlabeled_loss
        )
    losses = labeled_loss, unlabeled_loss
    pieces = Pieces(network, find, predict, *losses, weight, extra, batch_norm, second_view)
    teacher = predict == 'teacher'
    return Method(functools.partial(step_loss, pieces), init, second_view, find is not None, teacher)
