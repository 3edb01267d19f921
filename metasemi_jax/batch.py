"""What one step is fed."""

from typing import NamedTuple

import jax

Array = jax.Array


class Batch(NamedTuple):
    """One step's examples. `unlabeled_labels` serve metrics alone; -1 or None where they are unknown."""

    labeled_images: Array  # [B, H, W, C], normalised
    labels: Array  # [B], integers
    unlabeled_images: Array  # [B, H, W, C], normalised
    unlabeled_labels: Array | None = None  # [B], integers
