"""The student's passes in training mode, by the two conventions of BatchNorm in published programs.

Pi model, Mean Teacher, VAT, ICT, MixMatch and MetaSemi have *separate* passes over labeled and unlabeled
images. UDA, FixMatch and what followed have one *joint* pass over labeled images, weak and second view: the
weak view moves the statistics there, and its activations are kept for a gradient that is zero.
"""

import jax
from jax import Array

from metasemi_jax.batch import Batch
from metasemi_jax.methods.interleave import interleave, separate
from metasemi_jax.methods.method import Inputs, Keys, Params
from metasemi_jax.methods.network import Network


class SeparatePasses:
    """Labeled images first, then unlabeled ones; the predictions come from passes without gradient."""

    def __init__(
        self, network: Network, params: Params, inputs: Inputs, keys: Keys, predict: str, batch_norm: str
    ):
        self._network, self._variables = network, inputs.variables(params)
        self._labeled_key, self._unlabeled_key = _split(keys.dropout)
        self._every = batch_norm == 'every'
        self._weak = None  # weak view and logits of the student's own pass over it
        self.inputs = _with_predictions(inputs, network, predict, keys.dropout, self._unlabeled_key)
        self.batch_stats = inputs.batch_stats
        if predict == 'same_pass':
            # Once, for the targets and with gradient: XLA does not merge passes that draw dropout masks.
            self._weak = inputs.batch.unlabeled_images, self.forward(inputs.batch.unlabeled_images)
            self.inputs = self.inputs._replace(weak_logits=jax.lax.stop_gradient(self._weak[1]))

    def labeled(self, images: Array) -> Array:
        """Logits, with gradient; the running statistics move."""
        logits, self.batch_stats = self._network.train_logits(self._variables, images, self._labeled_key)
        return logits

    def unlabeled(self, images: Array) -> Array:
        """Logits, with gradient; the running statistics move where every pass moves them."""
        if not self._every:
            return self.forward(images)
        variables = self._variables | {'batch_stats': self.batch_stats}
        logits, self.batch_stats = self._network.train_logits(variables, images, self._unlabeled_key)
        return logits

    def forward(self, images: Array) -> Array:
        """`unlabeled`, and no statistic moves."""
        if self._weak is not None and images is self._weak[0]:
            return self._weak[1]
        return self._network.train_logits(self._variables, images, self._unlabeled_key)[0]


class JointPass:
    """One pass over labeled images, weak and second view; its weak logits are the predictions."""

    def __init__(
        self, network: Network, params: Params, inputs: Inputs, keys: Keys, predict: str, batch_norm: str
    ):
        del predict, batch_norm
        batch = inputs.batch
        labeled_key, _ = _split(keys.dropout)
        parts = batch.labeled_images, batch.unlabeled_images, batch.strong_images
        images = interleave(parts)
        logits, self.batch_stats = network.train_logits(inputs.variables(params), images, labeled_key)
        self._labeled, weak, self._second = separate(logits, [len(part) for part in parts])
        self._views = batch.labeled_images, batch.strong_images
        self.inputs = inputs._replace(weak_logits=jax.lax.stop_gradient(weak))
        self.forward = None

    def labeled(self, images: Array) -> Array:
        """Logits of the labeled batch, the only images that the pass has."""
        return self._of(images, self._views[0], self._labeled)

    def unlabeled(self, images: Array) -> Array:
        """Logits of the second view, the only images that the pass has."""
        return self._of(images, self._views[1], self._second)

    def _of(self, images: Array, passed: Array, logits: Array) -> Array:
        if images is not passed:
            raise ValueError("batch_norm='joint' is for targets that leave the images as they are")
        return logits


PASSES = {'labeled': SeparatePasses, 'every': SeparatePasses, 'joint': JointPass}


def needed_views(batch: Batch, second_view: str | None) -> Batch:
    """The batch without a second view where the method has none.

    Raises:
      ValueError: the method has one, and the batch lacks it.
    """
    if second_view is None:
        return batch._replace(strong_images=None)
    if batch.strong_images is None:
        raise ValueError('this method needs a second view of the unlabeled images: batch.strong_images')
    return batch


def _split(key: Array | None) -> tuple[Array | None, Array | None]:
    return (None, None) if key is None else tuple(jax.random.split(key))


def _with_predictions(
    inputs: Inputs, network: Network, predict: str, key: Array | None, unlabeled_key: Array | None
) -> Inputs:
    own_key = None if key is None else jax.random.fold_in(key, 2)
    # The weights are constants, the images are not: VAT differentiates with respect to them.
    variables = jax.lax.stop_gradient(inputs.ema if predict == 'teacher' else inputs.variables())

    def logits(images: Array) -> Array:
        if predict == 'evaluation':
            return network.logits(variables, images)
        masks = unlabeled_key if predict == 'same_pass' else own_key
        return network.train_logits(variables, images, masks)[0]

    weak_logits = None if predict == 'same_pass' else logits(inputs.batch.unlabeled_images)
    return inputs._replace(predict=logits, weak_logits=weak_logits)
