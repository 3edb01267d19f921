"""`models/winograd.py` against the sum that defines a convolution, in float64, and where it is used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.models import create_model
from metasemi_jax.models.winograd import conv_general_dilated

B, H, W, C, F = 2, 16, 20, 128, 132
OPTIONS = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
# Largest error over the largest value; a direct float32 sum has 1e-6.
FORWARD, KERNEL = 4e-6, 2e-5


def conv(images, kernel):
    return conv_general_dilated(images, kernel, (1, 1), 'SAME', **OPTIONS)


def windows(images):
    """Of float64 images, what each of the nine numbers of a kernel meets."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = images.shape[1:3]
    return [[padded[:, i : i + height, j : j + width] for j in range(3)] for i in range(3)]


def exact_conv(images, kernel):
    seen = windows(images)
    return sum(seen[i][j] @ kernel[i, j].astype(np.float64) for i in range(3) for j in range(3))


def exact_in_kernel(images, cotangent):
    flat = cotangent.reshape(-1, cotangent.shape[-1]).astype(np.float64)
    return np.array([[seen.reshape(len(flat), -1).T @ flat for seen in row] for row in windows(images)])


def exact_in_images(cotangent, kernel):
    """What each output spreads over the nine pixels that it saw."""
    batch, height, width, _ = cotangent.shape
    padded = np.zeros((batch, height + 2, width + 2, kernel.shape[2]))
    for i in range(3):
        for j in range(3):
            spread = cotangent.astype(np.float64) @ kernel[i, j].T.astype(np.float64)
            padded[:, i : i + height, j : j + width] += spread
    return padded[:, 1:-1, 1:-1]


def assert_near(found, exact, tolerance):
    np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * np.abs(exact).max())


@pytest.fixture(scope='module', autouse=True)
def one_device():
    """As most users have it; with several the convolution is XLA's."""
    patch = pytest.MonkeyPatch()
    patch.setattr(jax, 'device_count', lambda: 1)
    yield
    patch.undo()


@pytest.fixture(scope='module')
def arrays():
    """Images, kernel and cotangent, and a tangent of each of the first two."""
    rng = np.random.default_rng(0)
    shapes = (B, H, W, C), (3, 3, C, F), (B, H, W, F), (B, H, W, C), (3, 3, C, F)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_convolution_and_gradients(arrays):
    images, kernel, cotangent, *_ = arrays

    @jax.jit
    def run(images, kernel):
        outputs, transpose = jax.vjp(conv, images, kernel)
        return outputs, *transpose(cotangent)

    outputs, in_images, in_kernel = run(images, kernel)
    assert_near(outputs, exact_conv(images, kernel), FORWARD)
    assert_near(in_images, exact_in_images(cotangent, kernel), FORWARD)
    assert_near(in_kernel, exact_in_kernel(images, cotangent), KERNEL)


def test_tangents_and_their_gradients(arrays):
    images, kernel, cotangent, d_images, d_kernel = arrays

    def weighed_tangent(images, kernel):
        tangent = jax.jvp(conv, (images, kernel), (d_images, d_kernel))[1]
        return jnp.sum(tangent * cotangent), tangent

    run = jax.jit(jax.grad(weighed_tangent, (0, 1), has_aux=True))
    (in_images, in_kernel), tangent = run(images, kernel)
    assert_near(tangent, exact_conv(d_images, kernel) + exact_conv(images, d_kernel), FORWARD)
    assert_near(in_images, exact_in_images(cotangent, d_kernel), FORWARD)
    assert_near(in_kernel, exact_in_kernel(d_images, cotangent), KERNEL)


def test_tangents_of_gradients(arrays):
    images, kernel, cotangent, d_images, d_kernel = arrays
    in_both = jax.grad(lambda *args: jnp.sum(conv(*args) * cotangent), (0, 1))
    run = jax.jit(lambda *tangents: jax.jvp(in_both, (images, kernel), tangents)[1])
    in_images, in_kernel = run(d_images, d_kernel)
    assert_near(in_images, exact_in_images(cotangent, d_kernel), FORWARD)
    assert_near(in_kernel, exact_in_kernel(d_images, cotangent), KERNEL)


def test_gradients_outside_jit_are_those_of_xla(arrays):
    images, kernel, cotangent, *_ = arrays
    in_images, in_kernel = jax.vjp(conv, images, kernel)[1](cotangent)
    assert_near(in_images, exact_in_images(cotangent, kernel), FORWARD)
    assert_near(in_kernel, exact_in_kernel(images, cotangent), KERNEL)


def test_in_shard_map_it_is_xlas(arrays):
    mesh = jax.make_mesh((1,), ('d',), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    images, kernel, cotangent, *_ = arrays
    images_of, all_of = jax.sharding.PartitionSpec('d'), jax.sharding.PartitionSpec()

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(images_of, all_of, images_of), out_specs=all_of)
    def in_kernel(images, kernel, cotangent):
        return jax.grad(lambda kernel: jnp.sum(conv(images, kernel) * cotangent))(kernel)

    assert_near(in_kernel(images, kernel, cotangent), exact_in_kernel(images, cotangent), KERNEL)


def test_mapped_over_kernels(arrays):
    images, kernel, *_, d_kernel = arrays
    outputs = jax.vmap(conv, in_axes=(None, 0))(images, jnp.stack([kernel, d_kernel]))
    assert_near(outputs[1], exact_conv(images, d_kernel), FORWARD)


def test_cpu_programs_alone_have_it(arrays):
    traced = jax.jit(conv).trace(*arrays[:2])
    for platform, products in (('cpu', 6), ('tpu', 1), ('cuda', 1)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count('stablehlo.convolution') == products
    traced = jax.jit(jax.grad(lambda *args: jnp.sum(conv(*args) ** 2), 1)).trace(*arrays[:2])
    assert traced.lower(lowering_platforms=('cuda',)).as_text().count('stablehlo.convolution') == 2


def used(model, size=32, dtype=jnp.float32):
    """How many convolutions of an evaluation pass are Winograd's."""
    network = create_model(model, 10, dtype=dtype)
    images = jax.ShapeDtypeStruct((2, size, size, 3), dtype)

    def evaluated(images, key):
        variables = network.init(key, images, train=False)
        return network.apply(variables, images, train=False)

    # `init` runs the network too. Flax's BatchNorm in bfloat16 promotes.
    with jax.numpy_dtype_promotion('standard'):
        text = str(jax.make_jaxpr(evaluated)(images, jax.random.key(0)))
    return text.count('conv_3x3') // 2


def test_who_uses_it(monkeypatch):
    assert used('conv_large') == 5
    assert used('conv_large', size=12) == used('conv_small') == 0
    assert used('conv_large', dtype=jnp.bfloat16) == 0
    monkeypatch.setattr(jax, 'device_count', lambda: 2)
    assert used('conv_large') == 0


@pytest.mark.parametrize(
    'change',
    [
        {'kernel': (3, 3, 64, 128)},
        {'kernel': (1, 1, 128, 128)},
        {'images': (2, 18, 16, 128)},
        {'strides': (2, 2)},
        {'padding': 'VALID'},
        {'padding': [(0, 1), (1, 0)]},
        {'rhs_dilation': (2, 2)},
        {'batch_group_count': 2},
    ],
)
def test_other_convolutions_are_those_of_xla(change):
    given = {
        'images': (2, 16, 16, 128),
        'kernel': (3, 3, 128, 128),
        'strides': (1, 1),
        'padding': [(1, 1)] * 2,
    }

    def has_it(images, kernel, strides, padding, **options):
        images = (*images[:3], kernel[2])
        args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (images, kernel)]

        def run(images, kernel):
            return conv_general_dilated(images, kernel, strides, padding, **OPTIONS, **options)

        return 'conv_3x3' in str(jax.make_jaxpr(run)(*args))

    assert has_it(**given)
    assert not has_it(**given | change)
