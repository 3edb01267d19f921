"""`model.init_from=FILE`: a run starts from published weights.

The network and the normalisation are those of the weights. config.json keeps what the file decides, so that
neither a resumed run nor a user of its network needs the file.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from metasemi_jax.config.form import with_fields
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.models.trained_parts import HEAD
from metasemi_jax.models.vision_transformer import resized_positions
from metasemi_jax.pretrained.networks import Published, as_published
from metasemi_jax.pretrained.weights_file import is_weights_file, read_weights
from metasemi_jax.train_step import TrainState

# Flax names of first layers, whose kernels depend on the number of channels.
FIRST = ('conv1', 'conv_stem', 'patch_embed')


def load_published(source: str) -> Published:
    """The weights of the file that `model.init_from` names."""
    with as_user_error(UserError, lambda error: f'model.init_from={error}'):
        weights = read_weights(source)
    with as_user_error(UserError, lambda error: f'model.init_from={source} {error}'):
        return as_published(weights)


def with_published_network(config: Any) -> tuple[Any, Published | None]:
    """`config` with the network and the sizes of the file of `model.init_from`, where they are open.

    Returns:
      The config and the weights. The weights are None without such a file, or if the config names all that
      the file decides, as in a run that goes on.

    Raises:
      UserError: a file that cannot be used, or one of another network than `model.name`.
    """
    source = config.model.init_from
    if not is_weights_file(source) or (config.model.name and len(config.data.mean)):
        return config, None
    published = load_published(source)
    name = config.model.name or published.name
    check_network(source, published, name)
    sizes = {f'model.{size}': n for size, n in published.sizes.items() if config.model[size] is None}
    return with_fields(config, sizes | {'model.name': name}), published


def check_network(source: str, published: Published, name: str) -> None:
    """Refuse weights of another network than `name`."""
    if name != published.name:
        raise UserError(
            f'model.init_from={source} is a {published.name}, and model.name={name}; '
            f'add model.name={published.name}'
        )


def with_normalisation(config: Any, published: Published, channels: int) -> Any:
    """`config` with `data.mean` and `data.std` of the weights where they are open.

    Grey images have the means of the three channels.
    """
    if len(config.data.mean):
        return config
    mean, std = _normalisation(published, channels)
    return with_fields(config, {'data.mean': mean, 'data.std': std})


def _normalisation(published: Published, channels: int) -> tuple[tuple[float, ...], ...]:
    def of_channels(values: tuple[float, ...]) -> tuple[float, ...]:
        values = values if channels == len(values) else (sum(values) / len(values),) * channels
        return tuple(round(value, 6) for value in values)

    return of_channels(published.mean), of_channels(published.std)


def begin_from_file(
    state: TrainState, model: Any, spec: InputSpec, source: str, name: str
) -> tuple[TrainState, str]:
    """`state` before its first step with the weights of a file, but for the last linear layer.

    Args:
      spec: shape and normalisation of the run's images.
      source, name: `model.init_from` and `model.name`.

    Returns:
      The state, and one line for people.
    """
    published = load_published(source)
    check_network(source, published, name)
    body, (height, width, channels) = published.body, spec.image_shape
    params = dict(body['params'])
    if channels not in (1, 3):
        raise UserError(
            f'model.init_from={source} does not fit: it takes images of 3 channels, these have {channels}'
        )
    if channels == 1:
        params = _for_grey(params)
    if published.grid is not None:
        grid = height // model.patch, width // model.patch
        old = published.grid, published.grid
        params['pos_embed'] = np.asarray(resized_positions(params['pos_embed'], old, grid))
    new = {'params': params, 'batch_stats': body['batch_stats']}
    new['params'][HEAD] = state.params[HEAD]
    _check_sizes(source, state.variables, new)
    new = jax.tree.map(lambda old, leaf: np.asarray(leaf, old.dtype), state.variables, new)
    ema = jax.tree.map(np.copy, new) if state.ema else state.ema
    return state.replace(**new, ema=ema), (
        f'model.init_from: {name} of {source}, but for the last layer, of {published.head_classes or "no"} '
        f'classes there; {_told(published, spec)}'
    )


def _told(published: Published, spec: InputSpec) -> str:
    mean, std = _normalisation(published, spec.image_shape[-1])
    if np.allclose([spec.mean, spec.std], [mean, std], atol=5e-3):
        return f'normalisation of the weights, data.mean={spec.mean} and data.std={spec.std}'
    return f'data.mean={spec.mean} and data.std={spec.std} are given, those of the weights: {mean} and {std}'


def _for_grey(params: dict[str, Any]) -> dict[str, Any]:
    """The network for grey images: what it makes of a colour image of three equal channels."""
    (first,) = [name for name in FIRST if name in params]
    layer = dict(params[first])
    layer['kernel'] = np.sum(layer['kernel'], axis=2, keepdims=True, dtype=np.float32)
    return params | {first: layer}


def _check_sizes(source: str, drawn: Any, new: Any) -> None:
    here, there = (jax.tree.map(jnp.shape, flatten_dict(tree, sep='/')) for tree in (drawn, new))
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise UserError(
                f'model.init_from={source} does not fit: {name} is {there.get(name)} there, {here.get(name)} '
                'here; leave model.width and model.depth to the file'
            )
