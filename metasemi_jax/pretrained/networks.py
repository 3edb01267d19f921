"""Which network a file of weights is of, by its names and shapes, and what images it was trained on."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.models import MODELS
from metasemi_jax.models.vision_transformer import VISION_TRANSFORMERS
from metasemi_jax.torch_import.state_dict import convert_body, head_classes, infer_sizes

KNOWN = "torchvision's ResNet-18 and -50, EfficientNet-Lite0, and timm's ViT-S/16, ViT-B/16, DINOv2 and -v3"
RESNETS = {('basic', 2, 2, 2, 2): 'resnet18', ('bottleneck', 3, 4, 6, 3): 'resnet50'}
EFFICIENTNET_BLOCKS = 16
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5,) * 3, (0.5,) * 3
# (x - 127) / 128 of bytes, as Google's program has it. The stem's running variances confirm it.
LITE = (127 / 255,) * 3, (128 / 255,) * 3
# Names that files of the same network do not share, Facebook's, and DINOv3's in timm.
RENAMED = ((r'register_tokens', 'reg_token'), (r'(blocks\.\d+)\.gamma_([12])', r'\1.ls\2.gamma'))
UNUSED = ('mask_token',)


class Published(NamedTuple):
    """Weights from a file, as variables of one of this package's networks."""

    name: str  # of the network, a key of `MODELS`
    sizes: dict[str, int]  # of its options, those that are not the network's own
    body: dict[str, Any]  # {'params': ..., 'batch_stats': ...} without the last linear layer; NumPy arrays
    head_classes: int | None  # of the last linear layer, which is left out; None where there was none
    mean: tuple[float, ...]  # per channel of images scaled to 0..1
    std: tuple[float, ...]
    grid: int | None  # patches along a side, of a vision transformer with learnt positions


def as_published(weights: Mapping[str, np.ndarray]) -> Published:
    """Recognise the network of `weights`, as `read_weights` returns them, and convert it.

    Raises:
      UserError: what is wrong, as the rest of '<file> ...'.
    """
    weights = renamed(weights)
    name = _recognise(weights)
    with as_user_error(UserError, lambda error: f'is a damaged {name}: {error}'):
        body, classes = convert_body(name, weights), head_classes(name, weights)
    for path, array in flatten_dict(body, sep='/').items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f'holds numbers that are not finite, in {path}')
    sizes = infer_sizes(name, weights)
    if sizes.channels != 3:
        raise UserError(f'takes images of {sizes.channels} channels; weights for colour images are needed')
    own = {'width': sizes.width, 'depth': sizes.depth}
    differing = {size: n for size, n in own.items() if n is not None and n != getattr(MODELS[name], size)}
    mean, std = _normalisation(name, classes)
    grid = sizes.grid if 'pos_embed' in weights else None
    return Published(name, differing, body, classes, mean, std, grid)


def renamed(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`weights` under the names of `convert_state_dict`."""
    if all(name.startswith('module.') for name in weights):
        weights = {name.removeprefix('module.'): array for name, array in weights.items()}
    return {_renamed(name): array for name, array in weights.items() if name not in UNUSED}


def _renamed(name: str) -> str:
    for pattern, new in RENAMED:
        name = re.sub(rf'^{pattern}$', new, name)
    return name


def _recognise(weights: Mapping[str, np.ndarray]) -> str:
    if 'layer1.0.conv1.weight' in weights:
        return _resnet(weights)
    if '_conv_stem.weight' in weights:
        return _efficientnet(weights)
    if 'patch_embed.proj.weight' in weights:
        return _transformer(weights)
    first, array = next(iter(weights.items()))
    raise UserError(f"is of another network ('{first}' {array.shape}); known are {KNOWN}")


def _resnet(weights: Mapping[str, np.ndarray]) -> str:
    kind = 'bottleneck' if 'layer1.0.conv3.weight' in weights else 'basic'
    blocks = [_count(weights, rf'layer{stage}\.(\d+)\.') for stage in (1, 2, 3, 4)]
    if name := RESNETS.get((kind, *blocks)):
        return name
    raise UserError(f'is a ResNet of {blocks} {kind} blocks; known are {KNOWN}')


def _efficientnet(weights: Mapping[str, np.ndarray]) -> str:
    blocks = _count(weights, r'_blocks\.(\d+)\.')
    attention = '_blocks.0._se_reduce.weight' in weights
    if attention or blocks > EFFICIENTNET_BLOCKS:
        what = 'with attention' if attention else f'of {blocks} blocks'
        raise UserError(f'is an EfficientNet {what}; known are {KNOWN}')
    return 'efficientnet_lite0'


def _transformer(weights: Mapping[str, np.ndarray]) -> str:
    patch = weights['patch_embed.proj.weight'].shape[-2:]
    rotary, scaled = 'pos_embed' not in weights, 'blocks.0.ls1.gamma' in weights
    registers = weights.get('reg_token')
    count = registers.shape[1] if registers is not None and registers.ndim == 3 else 0
    fitting = {
        name: kind
        for name, kind in VISION_TRANSFORMERS.items()
        if ((kind.patch,) * 2, kind.rotary, kind.scaled, kind.registers) == (patch, rotary, scaled, count)
    }
    if not fitting:
        positions = 'without' if rotary else 'with'
        what = f'patches of {patch}, {count} registers, {positions} learnt positions'
        raise UserError(f'is a vision transformer of {what}; known are {KNOWN}')
    width = weights['cls_token'].shape[-1:] if 'cls_token' in weights else ()
    # Another width: the small network, with `width` as an option.
    return next((name for name, kind in fitting.items() if (kind.width,) == width), max(fitting))


def _normalisation(name: str, classes: int | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if name == 'efficientnet_lite0':
        return LITE
    # Google's supervised transformers, timm's default, take -1..1. Those trained without labels (DINO, MAE)
    # come without a last layer, and have ImageNet's.
    return HALF if name.startswith('vit_') and classes else IMAGENET


def _count(weights: Mapping[str, np.ndarray], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
