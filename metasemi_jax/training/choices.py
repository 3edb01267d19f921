"""The facts that a recipe needs, and a config completed by it."""

import copy
from typing import Any

import jax
import numpy as np

from metasemi_jax.config import check_config, flatten
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.images.parallel import available_cores
from metasemi_jax.data.sources.own_images import image_sides
from metasemi_jax.models import MODELS
from metasemi_jax.training.recipe import Facts, choose, image_size, published_image_size

LOOKED_AT = 500  # images
BLACK = 16  # of 255: the brightest that a black pixel may be


def with_image_size(
    config: Any,
    sides: tuple[int, int] | None = None,
    *,
    published: bool = False,
    platform: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """`config` with `data.image_size` chosen where it is open (0: the images' own), and the choice.

    Args:
      config: settings of the run.
      sides: height and width of images in memory, all of one size, in the place of those at `data.path`.
      published: whether the run begins with published weights; `model.name` is their network.
      platform: 'cpu', 'gpu' or 'tpu', where the run will be; None: this machine's.
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
    return _with_fields(config, chosen), chosen


def with_choices(config: Any, dataset: Dataset, *, platform: str | None = None) -> tuple[Any, dict[str, Any]]:
    """`config` with every open field chosen, and these fields; {} unless its recipe is 'auto'.

    `platform` is where the run will be; None: this machine's.
    """
    if config.recipe != 'auto':
        return config, {}
    chosen = choose(find_facts(config, dataset, platform), flatten(config))
    config = _with_fields(config, chosen | {'recipe': 'chosen'})
    # What was given may not fit what was chosen: an option of another method.
    check_config(config)
    return config, chosen


def find_facts(config: Any, dataset: Dataset, platform: str | None = None) -> Facts:
    """What the recipe wants to know of the images and of this machine."""
    return Facts(
        image_shape=dataset.image_shape,
        num_images=len(dataset.train_labels),
        black_border=not dataset.has_features and has_black_border(dataset.train_images),
        accelerator=_accelerator(platform),
        cores=available_cores(),
    )


def has_black_border(images: Any) -> bool:
    """Whether most pixels at the edges of uint8 [N, H, W, C] are black in every channel; of 500 images."""
    positions = np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int))
    black = np.asarray(images[positions]).max(axis=-1) <= BLACK
    edges = [black[:, 0], black[:, -1], black[:, :, 0], black[:, :, -1]]
    return bool(np.mean(np.concatenate([edge.ravel() for edge in edges])) > 0.5)


def _accelerator(platform: str | None) -> bool:
    return (platform or jax.default_backend()) != 'cpu'


def _with_fields(config: Any, fields: dict[str, Any]) -> Any:
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(fields)
    return config
