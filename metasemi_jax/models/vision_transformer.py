"""Vision Transformers (Dosovitskiy et al., 2021), also DINOv2's and DINOv3's.

Each block normalises before attention and before the two linear layers; the class token's last state is the
features. There is no BatchNorm, so that the running statistics are empty.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metasemi_jax.errors import UserError
from metasemi_jax.models import layers
from metasemi_jax.models.layers import Dtype, at_least_float32, classified, precision
from metasemi_jax.models.trained_parts import trained_parts

HEAD_WIDTH = 64  # numbers of a token that one attention head sees
LONGEST_PERIOD = 100  # of rotations; the shortest is 1, where the images' sides are 2
# As the paper's program draws tokens, positions and the weights of linear layers.
narrow_normal = nn.initializers.truncated_normal(0.02)
linear = functools.partial(layers.linear, kernel_init=narrow_normal)


class Block(nn.Module):
    """Attention, then two linear layers, each added to its input: [B, N, D] -> [B, N, D]."""

    scaled: bool  # whether each branch is multiplied by weights γ
    biased: bool  # whether queries, keys and values have biases
    epsilon: float  # of LayerNorm
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, angles: Array | None) -> Array:
        width = x.shape[-1]
        y = layer_norm(self.epsilon, self.dtype, 'norm1')(x)
        y = attend(linear(3 * width, self.dtype, 'attn_qkv', use_bias=self.biased)(y), angles)
        x = x + self._scale('ls1', linear(width, self.dtype, 'attn_proj')(y))
        y = layer_norm(self.epsilon, self.dtype, 'norm2')(x)
        y = nn.gelu(linear(4 * width, self.dtype, 'mlp_fc1')(y), approximate=False)
        return x + self._scale('ls2', linear(width, self.dtype, 'mlp_fc2')(y))

    def _scale(self, name: str, y: Array) -> Array:
        return LayerScale(self.dtype, name=name)(y) if self.scaled else y


class LayerScale(nn.Module):
    """Each channel times a weight γ (Touvron et al., 2021)."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        wide = at_least_float32(self.dtype)
        gamma = self.param('gamma', nn.initializers.constant(1e-5), x.shape[-1:], wide)
        return x * gamma.astype(self.dtype)


class VisionTransformer(nn.Module):
    """Images [B, H, W, C], sides multiples of the patch, -> logits [B, K].

    The positions are as many as the patches of the first images: a network for images of another size takes
    them from this one by `resized_positions`.
    """

    num_classes: int
    width: int = 384
    depth: int = 12
    trained_blocks: int | None = None  # the last blocks, the others are frozen; None: everything is trained
    dtype: Dtype = jnp.float32
    # Class attributes, no fields: the networks below set them, users do not.
    patch = 16
    scaled = False
    registers = 0  # tokens without a position that nothing is read from
    class_position = True  # whether the class token has a position
    rotary = False  # whether positions rotate queries and keys, instead of learnt ones
    epsilon = 1e-6  # of LayerNorm

    def parts(self) -> list[tuple[str, ...]]:
        """Names of the layers before the blocks, of each block, and after the blocks."""
        stem = ('patch_embed', 'cls_token', 'pos_embed', 'reg_token')
        return [stem, *((f'block_{i}',) for i in range(self.depth)), ('norm',)]

    @nn.compact
    def __call__(self, x: Array, *, train: bool, return_features: bool = False):
        del train  # Nothing differs in training.
        trained_parts(self)  # refuses a wrong number
        grid = check_patches(x.shape[1:3], self.patch)
        wide = at_least_float32(self.dtype)
        inits = {'kernel_init': nn.initializers.lecun_normal(), 'bias_init': nn.initializers.zeros}
        embed = layers.conv(
            self.width, self.patch, self.patch, padding='VALID', **inits, dtype=self.dtype, name='patch_embed'
        )
        x = embed(x.astype(self.dtype))
        x = x.reshape(len(x), -1, self.width)

        def token(name: str, count: int) -> Array:
            return self.param(name, narrow_normal, (1, count, self.width), wide).astype(self.dtype)

        first, angles = token('cls_token', 1), None
        if self.rotary:
            angles = rotations(grid, head_width(self.width))
        else:
            positions = token('pos_embed', grid[0] * grid[1] + self.class_position)
            if self.class_position:
                first, positions = first + positions[:, :1], positions[:, 1:]
            x = x + positions
        if self.registers:
            first = jnp.concatenate([first, token('reg_token', self.registers)], axis=1)
        first = jnp.broadcast_to(first, (len(x), *first.shape[1:]))
        x = jnp.concatenate([first, x], axis=1)
        for i in range(self.depth):
            block = Block(self.scaled, not self.rotary, self.epsilon, self.dtype, name=f'block_{i}')
            x = block(x, angles)
        features = layer_norm(self.epsilon, self.dtype, 'norm')(x)[:, 0].astype(wide)
        return classified(features, self, return_features)


class ViTS16(VisionTransformer):
    """ViT-S/16."""


class ViTB16(VisionTransformer):
    """ViT-B/16."""

    width: int = 768


class DINOv2S14(VisionTransformer):
    """ViT-S/14 of DINOv2 (Oquab et al., 2023)."""

    patch = 14
    scaled = True


class DINOv2B14(DINOv2S14):
    """ViT-B/14 of DINOv2."""

    width: int = 768


class DINOv2S14Registers(DINOv2S14):
    """ViT-S/14 of DINOv2 with four registers (Darcet et al., 2024)."""

    registers = 4
    class_position = False


class DINOv2B14Registers(DINOv2S14Registers):
    """ViT-B/14 of DINOv2 with four registers."""

    width: int = 768


class DINOv3S16(VisionTransformer):
    """ViT-S/16 of DINOv3 (Siméoni et al., 2025): rotary positions, four registers."""

    scaled = True
    registers = 4
    class_position = False
    rotary = True
    epsilon = 1e-5


class DINOv3B16(DINOv3S16):
    """ViT-B/16 of DINOv3."""

    width: int = 768


VISION_TRANSFORMERS = {
    'dinov2_b14': DINOv2B14,
    'dinov2_b14_registers': DINOv2B14Registers,
    'dinov2_s14': DINOv2S14,
    'dinov2_s14_registers': DINOv2S14Registers,
    'dinov3_b16': DINOv3B16,
    'dinov3_s16': DINOv3S16,
    'vit_b16': ViTB16,
    'vit_s16': ViTS16,
}


def attend(qkv: Array, angles: Array | None = None) -> Array:
    """Softmax attention among the tokens of an image: queries, keys and values [B, N, 3 D] -> [B, N, D].

    Args:
      qkv: queries, keys and values of all heads.
      angles: [n, head_width / 2], by which queries and keys of the last n tokens are rotated.
    """
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    size = head_width(width)
    q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, width // size, size), 2, 0)
    if angles is not None:
        q, k = rotated(q, angles), rotated(k, angles)
    digits = precision(qkv.dtype)
    scale = jnp.asarray(size**-0.5, qkv.dtype)
    logits = jnp.einsum('bqhd,bkhd->bhqk', q * scale, k, precision=digits)
    weights = jax.nn.softmax(logits.astype(at_least_float32(qkv.dtype))).astype(qkv.dtype)
    return jnp.einsum('bhqk,bkhd->bqhd', weights, v, precision=digits).reshape(batch, tokens, width)


def head_width(width: int) -> int:
    """Numbers of a token that one attention head sees, at most `HEAD_WIDTH`; refuses other widths."""
    size = min(width, HEAD_WIDTH)
    if width % size or size % 4:
        raise UserError(
            f'model.width={width}: a vision transformer needs a multiple of {HEAD_WIDTH}, or of 4 up to it'
        )
    return size


def rotations(grid: tuple[int, int], size: int) -> Array:
    """Angles [patches, size / 2] of the patches of a grid, its height's and its width's.

    The centres of the patches lie between -1 and 1; the periods rise from 1 to `LONGEST_PERIOD`.
    """
    # By NumPy: constants of the program.
    periods = LONGEST_PERIOD ** (np.arange(size // 4) / (size // 4))
    rows, columns = (2 * (np.arange(n) + 0.5) / n - 1 for n in grid)
    places = np.stack(np.meshgrid(rows, columns, indexing='ij'), axis=-1).reshape(-1, 2, 1)
    return jnp.asarray((2 * math.pi * places / periods).reshape(len(places), -1), float)


def rotated(x: Array, angles: Array) -> Array:
    """Queries or keys [B, N, heads, size]: pairs (i, i + size/2) of the last tokens turn by angle i."""
    first, last = jnp.split(x, [x.shape[1] - len(angles)], axis=1)
    sin, cos = (function(angles)[:, None].astype(x.dtype) for function in (jnp.sin, jnp.cos))
    left, right = jnp.split(last, 2, axis=-1)
    turned = jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
    return jnp.concatenate([first, turned], axis=1)


def layer_norm(epsilon: float, dtype: Dtype, name: str) -> nn.LayerNorm:
    """LayerNorm over the channels of a token."""
    return nn.LayerNorm(epsilon, dtype=dtype, param_dtype=at_least_float32(dtype), name=name)


def check_patches(sides: tuple[int, ...], patch: int) -> tuple[int, int]:
    """Patches along height and width; refuses sides that are no multiple of `patch`."""
    height, width = sides
    if height % patch or width % patch or not min(sides):
        near = max(1, round(min(sides) / patch)) * patch
        raise UserError(
            f'a vision transformer cuts images into patches of {patch}×{patch}, and {height}×{width} is no '
            f'multiple; add data.image_size={near}'
        )
    return height // patch, width // patch


def resized_positions(positions: Array, old: tuple[int, int], new: tuple[int, int]) -> Array:
    """Positions of a grid of `old` patches for one of `new`, bicubic and antialiased, as timm's.

    Args:
      positions: [1, p + old patches, D]; the first p, of the class token, stay as they are.
      old, new: patches along height and width.
    """
    first = positions.shape[1] - old[0] * old[1]
    if old == new:
        return positions
    width = positions.shape[-1]
    grid = jnp.asarray(positions[:, first:], jnp.float32).reshape(1, *old, width)
    resized = jax.image.resize(grid, (1, *new, width), 'cubic', antialias=True)
    return jnp.concatenate(
        [positions[:, :first], resized.reshape(1, -1, width).astype(positions.dtype)], axis=1
    )
