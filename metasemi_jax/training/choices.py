"""Facts for the recipe, and configs that it completes."""

from typing import Any

import jax
import numpy as np

from metasemi_jax.config.checks import check_config
from metasemi_jax.config.form import flatten, with_fields
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.images.parallel import available_cores
from metasemi_jax.data.sources.own_images import image_sides
from metasemi_jax.models import MODELS
from metasemi_jax.training.recipe import Facts, choose, image_size, published_image_size

LOOKED_AT = 500  # images whose borders are examined
BLACK = 16  # of 255; a pixel at most this bright is black


def with_image_size(
    config: Any,
    sides: tuple[int, int] | None = None,
    *,
    published: bool = False,
    platform: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """`config` with a value for `data.image_size` if that is open, and the choice; 0 keeps the images' size.

    Args:
      sides: height and width of images in memory, all of one size; None: look at the files of `data.path`.
      published: whether the run starts from published weights, of the network `model.name`.
      platform: 'cpu', 'gpu' or 'tpu', on which the run will train; None: this machine's.
    """
    if config.recipe != 'auto' or config.data.image_size is not None:
        return config, {}
    sizes = image_sides(config.data.path) if sides is None else [sides]
    if published:
        patch = getattr(MODELS[config.model.name], 'patch', None)
        size = published_image_size(sizes, patch=patch, accelerator=_accelerator(platform))
    else:
        one_size = sides is not None or config.data.path.lower().endswith('.npz')
        size = image_size(sizes, one_size=one_size, accelerator=_accelerator(platform))
    chosen = {'data.image_size': size}
    return with_fields(config, chosen), chosen


def with_choices(config: Any, dataset: Dataset, *, platform: str | None = None) -> tuple[Any, dict[str, Any]]:
    """`config` with a value for every open field, and these values; {} unless its recipe is 'auto'.

    `platform` is as for `with_image_size`.
    """
    if config.recipe != 'auto':
        return config, {}
    chosen = choose(find_facts(dataset, platform), flatten(config))
    config = with_fields(config, chosen | {'recipe': 'chosen'})
    # A given option may not fit the chosen method.
    check_config(config)
    return config, chosen


def find_facts(dataset: Dataset, platform: str | None = None) -> Facts:
    """Facts of the images and of this machine."""
    return Facts(
        image_shape=dataset.image_shape,
        num_images=len(dataset.train_labels),
        black_border=not dataset.has_features and has_black_border(dataset.train_images),
        accelerator=_accelerator(platform),
        cores=available_cores(),
    )


def has_black_border(images: Any) -> bool:
    """Whether most border pixels of uint8 [N, H, W, C] are black in every channel, by `LOOKED_AT` images."""
    positions = np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int))
    black = np.asarray(images[positions]).max(axis=-1) <= BLACK
    edges = [black[:, 0], black[:, -1], black[:, :, 0], black[:, :, -1]]
    return bool(np.mean(np.concatenate([edge.ravel() for edge in edges])) > 0.5)


def _accelerator(platform: str | None) -> bool:
    return (platform or jax.default_backend()) != 'cpu'
