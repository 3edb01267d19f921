"""The order in which targets are made, moved, selected and mixed."""

import functools
from collections.abc import Callable

import jax
from jax import Array

from metasemi_jax.methods.meta import ExampleLoss, Meta, refine
from metasemi_jax.methods.method import Inputs, Targets
from metasemi_jax.methods.network import Network


def find_targets(
    targets: Callable[[Inputs, Array], Targets],
    inputs: Inputs,
    key: Array,
    *,
    select: Callable[[Targets, Inputs], Targets] | None,
    meta: Meta | None,
    mix: Callable[[Targets, Inputs, Array], Targets] | None,
    network: Network,
    loss: ExampleLoss | None,
) -> Targets:
    """The final targets of a step; the arguments are those of `semi_supervised`.

    Without `select`, `meta` moves labels and weights at once. With it, the soft labels move before the
    selection, since after an argmax a small move can hardly change a class, and the weights after it.
    """
    found = targets(inputs, jax.random.fold_in(key, 1))
    found = found._replace(initial=found.labels if found.initial is None else found.initial)
    move = functools.partial(refine, inputs=inputs, meta=meta, network=network, loss=loss)
    if select is None:
        if meta is not None:
            found = move(found, labels=meta.labels, weights=meta.weights)
    else:
        if meta is not None and meta.labels:
            found = move(found, labels=True, weights=False)
        found = select(found, inputs)
        if meta is not None and meta.weights:
            found = move(found, labels=False, weights=True)
    return found if mix is None else mix(found, inputs, key)
