"""Which parts of a network are trained: all, or the last blocks and the last linear layer alone.

A network with the option `trained_blocks` has a method `parts`, the names of its layers from the images to
the features: those before the blocks, those of each block, those after the blocks. What is frozen works as in
evaluation mode: its BatchNorm normalises by the running statistics, and moves none.
"""

from typing import Any

from metasemi_jax.errors import UserError

HEAD = 'classifier'  # the last linear layer of every network


def trained_parts(model: Any) -> list[bool]:
    """Whether each of `model.parts()` is trained; with 0 trained blocks the last linear layer alone is.

    More blocks than the network has are refused.
    """
    count, trained = len(model.parts()) - 2, model.trained_blocks
    if trained is None:
        return [True] * (count + 2)
    if trained > count:
        raise UserError(
            f'model.trained_blocks={trained}: the network has {count} blocks; give at most as many, or None '
            'to train all of it'
        )
    return [False, *(i >= count - trained for i in range(count)), trained > 0]


def frozen_layers(model: Any) -> frozenset[str]:
    """Names in the parameters of the layers that are not trained; none without a `model`."""
    if getattr(model, 'trained_blocks', None) is None:
        return frozenset()
    pairs = zip(model.parts(), trained_parts(model), strict=True)
    return frozenset(name for names, trained in pairs if not trained for name in names)
