"""The logged metrics of a step: losses, and the quality of the targets of the unlabeled images."""

import jax.numpy as jnp

from metasemi_jax.batch import Batch
from metasemi_jax.methods.method import Aux
from metasemi_jax.metrics import Metrics, mean_of, pseudo_label_metrics

ARRAYS = ('initial', 'labels', 'weights', 'moved_from', 'updated', 'meta_gradient')


def step_metrics(aux: Aux, batch: Batch) -> Metrics:
    """Means of the scalars in `aux`, and of its targets; logging costs no forward pass.

    Accuracies are over the unlabeled images whose true label is known. The rows of targets that were mixed
    are no images, and have no accuracy.
    """
    metrics = {name: mean_of(value) for name, value in aux.items() if name not in ARRAYS}
    if 'kept' in metrics:
        metrics['pseudo_label_kept'] = metrics.pop('kept')
    labels = batch.unlabeled_labels
    if 'initial' in aux:
        metrics |= pseudo_label_metrics('before', aux['initial'], labels)
    if 'updated' in aux:
        known = labels if len(aux['updated']) == len(batch.unlabeled_images) else None
        metrics |= pseudo_label_metrics('after', aux['updated'], known)
        moved = aux['moved_from'] - aux['updated']
        metrics['pseudo_label_change'] = mean_of(jnp.sum(jnp.abs(moved), axis=-1))
        metrics['pseudo_label_clipped'] = mean_of((aux['updated'] <= 0) & (aux['moved_from'] > 0))
    if 'weights' in aux:
        metrics['pseudo_label_weight'] = mean_of(aux['weights'])
        if labels is not None and len(aux['weights']) == len(labels):
            correct = jnp.argmax(aux['labels'], axis=-1) == labels
            kept = (aux['weights'] > 0) & (labels >= 0)
            metrics['pseudo_label_accuracy_kept'] = mean_of(correct, where=kept)
    return metrics
