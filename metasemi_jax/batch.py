"""The examples of one step."""

from typing import NamedTuple

from jax import Array


class Batch(NamedTuple):
    """One step's examples: B labeled and n unlabeled ones, n a multiple of B."""

    labeled_images: Array  # [B, H, W, C], normalised, weak view
    labels: Array  # [B], integers
    unlabeled_images: Array  # [n, H, W, C], normalised, weak view
    unlabeled_labels: Array | None = None  # [n], integers, -1 where unknown; for metrics alone
    strong_images: Array | None = None  # [n, H, W, C], a second view of the unlabeled images, weak or strong
    unlabeled_ids: Array | None = None  # [n], integers, positions in the unlabeled pool
