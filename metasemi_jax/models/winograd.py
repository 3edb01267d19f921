"""3×3 convolutions in float32 on CPUs with fewer products, by Winograd's minimal filtering.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016). Four outputs in a row take 6
products for each row of the kernel instead of 12, F(4, 3): sums of 6 pixels are convolved with sums of the
kernel's columns, and summed to the outputs. A kernel's gradient takes tiles of 6×6 pixels, 36 products
instead of 144, F(4×4, 3×3).

On 2 Xeon cores XLA's convolutions of 128 channels reach 80% of the speed of PyTorch's, its kernel gradients
60%. With Winograd's a step of ConvLarge is faster than PyTorch's. The whole batch is one piece: a loop over
pieces that fit the caches leaves the second core idle. docs/performance.md has the times and the errors.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# With fewer channels the sums take longer than the products save. On smaller images the gain does not repay
# the compilation.
MIN_CHANNELS, MIN_SIZE = 128, 16
_OPTIONS = {'lhs_dilation', 'rhs_dilation', 'dimension_numbers', 'feature_group_count', 'precision'}

_OUT = 4  # outputs of a tile along one axis
# At the points 0, 1, -1, 2, -2 and infinity: outputs = _OUTPUTS · ((_KERNEL · kernel) ∘ (_TILE · pixels)).
_TILE = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUTS = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def conv_general_dilated(
    images: Array, kernel: Array, strides: Sequence[int], padding: Any, **options: Any
) -> Array:
    """`jax.lax.conv_general_dilated` as Flax calls it; large 3×3 convolutions on a CPU by Winograd.

    Derivatives of every order and both modes are convolutions of the same kind. `dimension_numbers` are
    Flax's: NHWC, HWIO, NHWC.
    """
    if _suits(images, kernel, strides, padding, options):
        return _conv.bind(images, kernel, precision=options.get('precision'))
    return jax.lax.conv_general_dilated(images, kernel, strides, padding, **options)


def _suits(images: Array, kernel: Array, strides: Sequence[int], padding: Any, options: dict) -> bool:
    return (
        images.dtype == kernel.dtype == jnp.float32
        and kernel.shape[:2] == (3, 3)
        and (padding == 'SAME' or {amount for pair in padding for amount in pair} == {1})
        and options.keys() <= _OPTIONS
        and {*strides, *(options.get('lhs_dilation') or ()), *(options.get('rhs_dilation') or ())} == {1}
        and options.get('feature_group_count', 1) == 1
        and min(kernel.shape[2:]) >= MIN_CHANNELS
        and min(images.shape[1:3]) >= MIN_SIZE
        and not any(size % _OUT for size in images.shape[1:3])
        # Several devices share a batch, and shard_map types it, by rules of XLA's own convolution. On one GPU
        # or TPU the primitive is bound too, and lowered to that.
        and jax.device_count() == 1
        and jax.sharding.get_abstract_mesh().empty
    )


def direct_conv(images: Array, kernel: Array, *, precision: Any) -> Array:
    """The convolution as XLA has it: [B, H, W, C] and [3, 3, C, F] -> [B, H, W, F]."""
    return _convolved(images, kernel, (1, 1), precision)


def _convolved(images: Array, kernel: Array, margins: tuple[int, int], precision: Any) -> Array:
    pads = [(margin, margin) for margin in margins]
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), pads, dimension_numbers=numbers, precision=precision
    )


def direct_kernel_gradient(images: Array, cotangent: Array, *, precision: Any) -> Array:
    """The gradient of `direct_conv` in its kernel: [B, H, W, C] and [B, H, W, F] -> [3, 3, C, F]."""

    def of_kernel(kernel: Array) -> Array:
        return direct_conv(images, kernel, precision=precision)

    kernel = jax.ShapeDtypeStruct((3, 3, images.shape[-1], cotangent.shape[-1]), images.dtype)
    return jax.linear_transpose(of_kernel, kernel)(cotangent)[0]


def winograd_conv(images: Array, kernel: Array, *, precision: Any) -> Array:
    """`direct_conv` by tiles of 1×6 pixels."""
    padded = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0)))
    tiles = _sums(_TILE, _pixels(padded, axis=2))
    kernels = _sums(_KERNEL, [kernel[:, i : i + 1] for i in range(3)])
    products = [_convolved(*pair, (1, 0), precision) for pair in zip(tiles, kernels, strict=True)]
    outputs = jnp.stack(_sums(_OUTPUTS, products), 3)
    return outputs.reshape(*images.shape[:3], kernel.shape[-1])


def winograd_kernel_gradient(images: Array, cotangent: Array, *, precision: Any) -> Array:
    """`direct_kernel_gradient` by tiles of 6×6 pixels: `winograd_conv` transposed, along both axes."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    tiles = jnp.stack(_sums(_TILE, _pixels(padded, axis=2)))
    cotangents = jnp.stack(_sums(_transposed(_OUTPUTS), [cotangent[:, :, i::_OUT] for i in range(_OUT)]))

    # One column of the tile after another, since 36 products in one piece take long to compile, and memory.
    def column(_: None, pair: tuple[Array, Array]) -> tuple[None, Array]:
        tiles, cotangents = pair
        tiles = _sums(_TILE, _pixels(tiles, axis=1))
        cotangents = _sums(_transposed(_OUTPUTS), [cotangents[:, i::_OUT] for i in range(_OUT)])
        products = [
            jax.lax.dot_general(_rows(x), _rows(y), (((0,), (0,)), ((), ())), precision=precision)
            for x, y in zip(tiles, cotangents, strict=True)
        ]
        return None, jnp.stack(_sums(_transposed(_KERNEL), products))

    _, columns = jax.lax.scan(column, None, (tiles, cotangents))
    return jnp.stack(_sums(_transposed(_KERNEL), list(columns)), 1)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _pixels(padded: Array, *, axis: int) -> list[Array]:
    """The first pixel of every tile along `axis`, the second, ... the sixth."""
    last = padded.shape[axis] - len(_TILE)
    return [jax.lax.slice_in_dim(padded, i, i + last + 1, _OUT, axis) for i in range(len(_TILE))]


def _sums(matrix: Sequence[Sequence[float]], arrays: Sequence[Array]) -> list[Array]:
    """The product of `matrix` and the vector `arrays`."""
    return [
        functools.reduce(operator.add, [_times(a, x) for a, x in zip(row, arrays, strict=True) if a])
        for row in matrix
    ]


def _times(factor: float, x: Array) -> Array:
    """In as few operations as possible, since all of them are compiled dozens of times."""
    if factor in (1, -1):
        return x if factor == 1 else -x
    return factor * x


def _transposed(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix, strict=True))


def _bilinear(name: str, direct: Callable, winograd: Callable, shape: Callable) -> Primitive:
    """A primitive: `winograd` in programs for CPUs, `direct` elsewhere and where it is mapped over."""
    primitive = Primitive(name)
    primitive.def_impl(direct)

    def result(x: Any, y: Any, **params: Any) -> Any:
        return x.update(shape=shape(x.shape, y.shape), weak_type=False)

    def mapped(args: Sequence[Array], axes: Sequence[int | None], **params: Any) -> tuple[Array, int]:
        return jax.vmap(lambda *args: direct(*args, **params), in_axes=tuple(axes))(*args), 0

    primitive.def_abstract_eval(result)
    batching.primitive_batchers[primitive] = mapped
    mlir.register_lowering(primitive, mlir.lower_fun(direct, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(winograd, multiple_results=False), platform='cpu')
    return primitive


_conv = _bilinear('conv_3x3', direct_conv, winograd_conv, lambda x, y: (*x[:3], y[-1]))
_kernel_gradient = _bilinear(
    'conv_3x3_kernel_gradient',
    direct_kernel_gradient,
    winograd_kernel_gradient,
    lambda x, y: (3, 3, x[-1], y[-1]),
)


def _of_images(cotangent: Array, kernel: Array, **params: Any) -> Array:
    """The gradient in the images."""
    return _conv.bind(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), **params)


# Each is the transpose in the first operand, then in the second.
ad.defbilinear(
    _conv,
    lambda cotangent, images, kernel, **params: _of_images(cotangent, kernel, **params),
    lambda cotangent, images, kernel, **params: _kernel_gradient.bind(images, cotangent, **params),
)
ad.defbilinear(
    _kernel_gradient,
    lambda kernel, images, cotangent, **params: _of_images(cotangent, kernel, **params),
    lambda kernel, images, cotangent, **params: _conv.bind(images, kernel, **params),
)
