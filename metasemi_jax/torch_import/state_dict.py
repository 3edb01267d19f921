"""PyTorch state dicts to Flax variables and back: nets of the authors' program, and published ones.

One table of names serves both directions; the shapes come from the Flax modules themselves. PyTorch itself
is not needed.
"""

import collections
import functools
import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from metasemi_jax.errors import UserError
from metasemi_jax.models import MODELS, create_model
from metasemi_jax.models.trained_parts import HEAD
from metasemi_jax.models.vision_transformer import VISION_TRANSFORMERS

_RESIDUAL = (
    (r'(layer\d)_(\d+)/downsample_conv', r'\1.\2.downsample.0'),
    (r'(layer\d)_(\d+)/downsample_bn', r'\1.\2.downsample.1'),
    (r'(layer\d)_(\d+)/downsample/(\w+)', r'\1.\2.downsample.\3'),
    (r'(layer\d)_(\d+)/(\w+)', r'\1.\2.\3'),
    (r'(conv1|bn1)', r'\1'),
    (r'classifier', 'fc'),
)
_EFFICIENTNET = (
    (r'block_(\d+)/(\w+)', r'_blocks.\1._\2'),
    (r'bn_stem', '_bn0'),
    (r'bn_head', '_bn1'),
    (r'(conv_stem|conv_head)', r'_\1'),
    (r'classifier', '_fc'),
)
_VIT = (
    (r'block_(\d+)/(norm\d|ls\d)', r'blocks.\1.\2'),
    (r'block_(\d+)/(attn|mlp)_(\w+)', r'blocks.\1.\2.\3'),
    (r'patch_embed', 'patch_embed.proj'),
    (r'norm', 'norm'),
    (r'classifier', 'head'),
)
# Flax module path -> PyTorch module; the first pattern that matches counts.
_MODULES = {
    'conv_large': (
        (r'(block\d)/conv', r'\1.0'),
        (r'(block\d)/bn', r'\1.1'),
        (r'classifier', 'classifier.0'),
    ),
    'efficientnet_lite0': _EFFICIENTNET,
    'resnet18': _RESIDUAL,
    'resnet50': _RESIDUAL,
    'shake_shake26': _RESIDUAL,
    **dict.fromkeys(VISION_TRANSFORMERS, _VIT),
}
_PARAMETERS = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'gamma': 'gamma'}
_STATISTICS = {'mean': 'running_mean', 'var': 'running_var'}
# In which order PyTorch's modules register their children, and hence `model.parameters()` lists them.
_ORDER = (
    *('conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3'),
    *('conv_a1', 'bn_a1', 'conv_a2', 'bn_a2', 'conv_b1', 'bn_b1', 'conv_b2', 'bn_b2'),
    *('downsample', 'conv', 'bn', 'block', 'layer', 'classifier', 'fc'),
    *('weight', 'bias', *_STATISTICS.values()),
)


class Sizes(NamedTuple):
    """What a state dict says of its network."""

    num_classes: int
    width: int
    channels: int
    depth: int | None = None  # of a vision transformer
    grid: int | None = None  # of a vision transformer, patches along a side of its images


class _Entry(NamedTuple):
    path: tuple[str, ...]  # in the Flax variables
    shape: tuple[int, ...]  # in PyTorch's layout


def convert_state_dict(name: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """PyTorch state dict -> {'params': ..., 'batch_stats': ...} for `create_model(name, ...)`.

    Args:
      name: 'conv_large' or 'shake_shake26' as the authors' program names their parameters, 'resnet18' or
        'resnet50' as torchvision does, 'efficientnet_lite0' as the efficientnet-lite-pytorch package does, or
        a vision transformer as timm does.
      state_dict: name -> NumPy array or tensor, on any device. `num_batches_tracked` is ignored, and so is
        the `module.` that DataParallel puts before every name. Class count, width and image channels are
        read from the shapes.

    Returns:
      NumPy arrays in Flax's layout, of the dtypes that they came with.

    Raises:
      UserError: an unknown network; a key that is missing, unexpected, wrongly shaped or no floating-point
        array, by its name.
    """
    return _convert(name, _arrays(name, state_dict), with_head=True)


def convert_body(name: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """`convert_state_dict` without the last linear layer, which the state dict may have or not."""
    arrays = _arrays(name, state_dict)
    return _convert(name, _split_head(name, arrays)[0], with_head=False)


def head_classes(name: str, state_dict: Mapping[str, Any]) -> int | None:
    """Classes of the last linear layer of a state dict; None where it has none.

    Raises:
      UserError: weights and biases of that layer are not of the same classes.
    """
    shapes = {key: array.shape for key, array in _split_head(name, _arrays(name, state_dict))[1].items()}
    counts = {shape[0] if shape else 0 for shape in shapes.values()}
    if len(counts) > 1:
        raise UserError(f'the last layer is damaged: {", ".join(f"{k!r} {v}" for k, v in shapes.items())}')
    return counts.pop() if counts else None


def _split_head(name: str, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], ...]:
    keys = {_torch_key(name, ('params', HEAD, leaf)) for leaf in ('kernel', 'bias')}
    return (
        {key: array for key, array in arrays.items() if key not in keys},
        {key: array for key, array in arrays.items() if key in keys},
    )


def _convert(name: str, arrays: Mapping[str, np.ndarray], *, with_head: bool) -> dict[str, Any]:
    sizes = _sizes(name, arrays)
    entries = _entries(name, sizes)
    if not with_head:
        entries = {key: entry for key, entry in entries.items() if HEAD not in entry.path}
    _check_keys(name, entries.keys(), arrays.keys())
    for key, entry in entries.items():
        if arrays[key].shape != entry.shape:
            raise UserError(
                f"'{key}' has shape {arrays[key].shape}, not the {entry.shape} of {name} with "
                f'{sizes.num_classes} classes (by its classifier) and width {sizes.width} (by its BatchNorms)'
            )
    flat = {entry.path: _to_flax(arrays[key]) for key, entry in entries.items()}
    return {'params': {}, 'batch_stats': {}} | traverse_util.unflatten_dict(flat)


def to_state_dict(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `convert_state_dict`: Flax variables -> PyTorch names and layouts.

    Args:
      name: as in `convert_state_dict`.
      variables: {'params': ..., 'batch_stats': ...}, or either alone. Gradients are of the structure of the
        parameters: {'params': grads} gives them PyTorch's names.

    Returns:
      Contiguous NumPy arrays of unchanged dtype, in the order of PyTorch's `state_dict()`.
    """
    flat = jax.tree.map(np.asarray, traverse_util.flatten_dict(dict(variables)))
    named = {
        _torch_key(name, path): np.ascontiguousarray(leaf.transpose(_torch_axes(leaf.ndim)))
        for path, leaf in flat.items()
    }
    return dict(sorted(named.items(), key=lambda item: _rank(item[0])))


def parameter_keys(state_dict: Mapping[str, Any]) -> list[str]:
    """The keys of the parameters, statistics left out, in the order of PyTorch's `model.parameters()`."""
    keys = [key for key in state_dict if not key.endswith((*_STATISTICS.values(), 'num_batches_tracked'))]
    return sorted(keys, key=lambda key: _rank(key.removeprefix('module.')))


def infer_sizes(name: str, state_dict: Mapping[str, Any]) -> Sizes:
    """Class count, width and image channels of a state dict that `convert_state_dict` accepts."""
    return _sizes(name, _arrays(name, state_dict))


def _arrays(name: str, state_dict: Any) -> dict[str, np.ndarray]:
    if name not in _MODULES:
        raise UserError(
            f"no PyTorch names are known for '{name}'; choose one of {', '.join(sorted(_MODULES))}"
        )
    if not isinstance(state_dict, Mapping) or not state_dict:
        raise UserError(f'the state dict of {name} is no mapping from names to arrays')
    kept = {str(key): value for key, value in state_dict.items()}
    if all(key.startswith('module.') for key in kept):
        kept = {key.removeprefix('module.'): value for key, value in kept.items()}
    return {k: _to_numpy(k, v) for k, v in kept.items() if not k.endswith('num_batches_tracked')}


def _to_numpy(key: str, value: Any) -> np.ndarray:
    if hasattr(value, 'detach'):
        value = value.detach().cpu()
        # NumPy knows no bfloat16, and PyTorch refuses to guess.
        is_bfloat16 = str(value.dtype) == 'torch.bfloat16'
        value = value.float().numpy().astype(jnp.bfloat16) if is_bfloat16 else value.numpy()
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"'{key}' is no floating-point array (its dtype is {array.dtype})")
    return array


def _check_keys(name: str, expected: Iterable[str], found: Iterable[str]) -> None:
    missing = [key for key in expected if key not in set(found)]
    unexpected = [key for key in found if key not in set(expected)]
    faults = [_listed('lacks', missing), _listed('has the unexpected', unexpected)]
    if missing or unexpected:
        raise UserError(f'the state dict of {name} {" and ".join(fault for fault in faults if fault)}')


def _listed(verb: str, keys: list[str]) -> str:
    more = f' and {len(keys) - 1} more' if len(keys) > 1 else ''
    return f"{verb} '{keys[0]}'{more}" if keys else ''


def _sizes(name: str, arrays: Mapping[str, np.ndarray]) -> Sizes:
    """Read what can be read; what is missing or damaged is left for the checks against `_entries` to name."""
    if name in VISION_TRANSFORMERS:
        return _transformer_sizes(name, arrays)
    default = Sizes(num_classes=1, width=MODELS[name].width, channels=3)
    usual = _entries(name, default)
    # Every BatchNorm's size is a multiple of the width; most of them are right even if one is damaged.
    ratios = collections.Counter(
        Fraction(arrays[key].shape[0], entry.shape[0])
        for key, entry in usual.items()
        if entry.path[-1] == 'scale' and key in arrays and arrays[key].ndim == 1
    )
    width = default.width * ratios.most_common(1)[0][0] if ratios else Fraction(default.width)
    classifier = arrays.get(_torch_key(name, ('params', 'classifier', 'kernel')))
    first = arrays.get(next(iter(usual)))
    return Sizes(
        num_classes=classifier.shape[0] if classifier is not None and classifier.ndim == 2 else 1,
        width=int(width) if width.denominator == 1 and width > 0 else default.width,
        channels=first.shape[1] if first is not None and first.ndim == 4 else default.channels,
    )


def _transformer_sizes(name: str, arrays: Mapping[str, np.ndarray]) -> Sizes:
    kind = MODELS[name]

    def shape(key: str, ndim: int) -> tuple[int, ...]:
        found = arrays[key].shape if key in arrays else ()
        return found if len(found) == ndim else (0,) * ndim

    blocks = {match[1] for key in arrays if (match := re.match(r'blocks\.(\d+)\.', key))}
    patches = shape('pos_embed', 3)[1] - kind.class_position
    return Sizes(
        num_classes=shape('head.weight', 2)[0] or 1,
        width=shape('cls_token', 3)[2] or kind.width,
        channels=shape('patch_embed.proj.weight', 4)[1] or 3,
        depth=len(blocks) or kind.depth,
        grid=max(1, math.isqrt(max(0, patches))),
    )


@functools.lru_cache(maxsize=16)
def _entries(name: str, sizes: Sizes) -> dict[str, _Entry]:
    """PyTorch key -> its place and shape, in PyTorch's order."""
    depth = {} if sizes.depth is None else {'depth': sizes.depth}
    model = create_model(name, sizes.num_classes, width=sizes.width, **depth)
    side = 32 if sizes.grid is None else sizes.grid * model.patch
    images = jnp.zeros((1, side, side, sizes.channels))
    shapes = jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))
    entries = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        torch_shape = jax.eval_shape(lambda x: x.transpose(_torch_axes(x.ndim)), leaf).shape
        entries[_torch_key(name, path)] = _Entry(path, torch_shape)
    return dict(sorted(entries.items(), key=lambda item: _rank(item[0])))


def _torch_key(name: str, path: tuple[str, ...]) -> str:
    modules = '/'.join(path[1:-1])
    if not modules:
        return path[-1]  # a vision transformer's tokens
    for pattern, replacement in _MODULES[name]:
        if match := re.fullmatch(pattern, modules):
            return f'{match.expand(replacement)}.{(_PARAMETERS | _STATISTICS)[path[-1]]}'
    raise ValueError(f"{name} has no module '{modules}'")


def _rank(key: str) -> tuple[int, ...]:
    """Sorts keys as PyTorch's modules register them: by name, then by number."""
    rank = []
    for part in key.split('.'):
        word, number = re.fullmatch(r'(block|layer)?(\d*)', part), 0
        if word:
            part, number = word[1] or '', int(word[2])
        rank += [_ORDER.index(part) if part in _ORDER else len(_ORDER), number]
    return tuple(rank)


def _torch_axes(ndim: int) -> tuple[int, ...]:
    """Flax's HWIO -> PyTorch's OIHW, [in, out] -> [out, in], vectors as they are."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def _to_flax(array: np.ndarray) -> np.ndarray:
    # A copy always: the result must not change with the network that it came from.
    return np.array(array.transpose(np.argsort(_torch_axes(array.ndim))), order='C')
