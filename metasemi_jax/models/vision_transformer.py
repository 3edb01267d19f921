"""Vision Transformers (Dosovitskiy et al., 2021), also DINOv2's with scaled branches and registers.

Each block normalises before attention and before the two linear layers; the class token's last state is the
features. There is no BatchNorm, so that the running statistics are empty.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from metasemi_jax.errors import UserError
from metasemi_jax.models.layers import Dtype, at_least_float32, classifier, precision
from metasemi_jax.models.trained_parts import trained_parts

Array = jax.Array
EPSILON = 1e-6  # of LayerNorm
HEAD_WIDTH = 64  # numbers of a token that one attention head sees
narrow_normal = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Attention, then two linear layers, each added to its input: [B, N, D] -> [B, N, D]."""

    scaled: bool  # whether each branch is multiplied by weights γ
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        y = layer_norm(self.dtype, 'norm1')(x)
        y = attend(linear(3 * width, self.dtype, 'attn_qkv')(y))
        x = x + self._scale('ls1', linear(width, self.dtype, 'attn_proj')(y))
        y = layer_norm(self.dtype, 'norm2')(x)
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
    # Not fields, hence no options: the networks below set them.
    patch = 16
    scaled = False
    registers = 0  # tokens without a position that nothing is read from
    class_position = True

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
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding='VALID',
            dtype=self.dtype,
            param_dtype=wide,
            precision=precision(self.dtype),
            name='patch_embed',
        )(x.astype(self.dtype))
        x = x.reshape(len(x), -1, self.width)

        def token(name: str, count: int) -> Array:
            return self.param(name, narrow_normal, (1, count, self.width), wide).astype(self.dtype)

        positions = token('pos_embed', grid[0] * grid[1] + self.class_position)
        first = token('cls_token', 1)
        if self.class_position:
            first, positions = first + positions[:, :1], positions[:, 1:]
        if self.registers:
            first = jnp.concatenate([first, token('reg_token', self.registers)], axis=1)
        first = jnp.broadcast_to(first, (len(x), *first.shape[1:]))
        x = jnp.concatenate([first, x + positions], axis=1)
        for i in range(self.depth):
            x = Block(self.scaled, self.dtype, name=f'block_{i}')(x)
        features = layer_norm(self.dtype, 'norm')(x)[:, 0].astype(wide)
        logits = classifier(self.num_classes, self.dtype, self.width)(features)
        return (logits, features) if return_features else logits


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


def attend(qkv: Array) -> Array:
    """Softmax attention among the tokens of an image: queries, keys and values [B, N, 3 D] -> [B, N, D]."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    heads = max(1, width // HEAD_WIDTH)
    q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, width // heads), 2, 0)
    digits = precision(qkv.dtype)
    scale = jnp.asarray((width // heads) ** -0.5, qkv.dtype)
    logits = jnp.einsum('bqhd,bkhd->bhqk', q * scale, k, precision=digits)
    weights = jax.nn.softmax(logits.astype(at_least_float32(qkv.dtype))).astype(qkv.dtype)
    return jnp.einsum('bhqk,bkhd->bqhd', weights, v, precision=digits).reshape(batch, tokens, width)


def linear(features: int, dtype: Dtype, name: str) -> nn.Dense:
    """A linear layer on every token, its weights drawn narrowly as in the paper's program."""
    return nn.Dense(
        features,
        kernel_init=narrow_normal,
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        precision=precision(dtype),
        name=name,
    )


def layer_norm(dtype: Dtype, name: str) -> nn.LayerNorm:
    """LayerNorm over the channels of a token."""
    return nn.LayerNorm(EPSILON, dtype=dtype, param_dtype=at_least_float32(dtype), name=name)


def check_patches(sides: tuple[int, ...], patch: int) -> tuple[int, int]:
    """Patches along height and width.

    Raises:
      UserError: a side is no multiple of `patch`.
    """
    height, width = sides
    if height % patch or width % patch or not min(sides):
        near = max(1, round(min(sides) / patch)) * patch
        raise UserError(
            f'a vision transformer cuts images into patches of {patch}×{patch}, and {height}×{width} is no '
            f'multiple; add --config.data.image_size={near}'
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
