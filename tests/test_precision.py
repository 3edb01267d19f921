"""What is promised to be float32 is so on GPUs and TPUs too: read from the programs lowered for them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metasemi_jax.batch import Batch
from metasemi_jax.methods import create_method
from metasemi_jax.methods.freematch import fairness_term
from metasemi_jax.models import MODELS, create_model, init_variables, layers, variable_shapes
from metasemi_jax.optimizer import make_optimizer
from metasemi_jax.train_step import TrainState, make_train_step

SIZES = {'wide_resnet': {'width': 1, 'depth': 10}}
SIZES |= {name: {'width': 4, 'depth': 1} for name in MODELS if name.startswith(('vit', 'dino'))}


def lowered(function, *args, platform):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def products(text):
    """(dtype of the operands, whether all digits are asked for) of each convolution and matrix product."""
    found = []
    for line in text.splitlines():
        if 'stablehlo.convolution(' in line or 'stablehlo.dot_general ' in line:
            signature = line.rsplit(' : (', 1)[1]
            dtypes = set(re.findall(r'x(f32|f64|bf16)>', signature.split('->')[0]))
            precisions = re.findall(r'DEFAULT|HIGHEST|HIGH\b', line)
            found.append((dtypes, precisions == ['HIGHEST', 'HIGHEST']))
    return found


def training_step(name, dtype, method='metasemi', **options):
    model = create_model(name, 5, dtype=dtype, **SIZES.get(name, {'width': 2}))
    batch = Batch(
        jnp.zeros((2, 16, 16, 3)),
        jnp.zeros(2, jnp.int32),
        jnp.zeros((2, 16, 16, 3)),
        strong_images=jnp.zeros((2, 16, 16, 3)),
    )
    tx = make_optimizer('sgd', momentum=0.9, weight_decay=1e-4)
    step = make_train_step(create_method(method, model, **options), tx, lr_schedule=lambda step: 0.1)
    variables = variable_shapes(model, (16, 16, 3))
    return step, jax.eval_shape(lambda v: TrainState.create(v, tx), variables), batch, jax.random.key(0)


@pytest.mark.parametrize(
    ('platform', 'estimator'),
    [('cuda', 'jvp'), ('tpu', 'jvp'), ('cuda', 'exact'), ('tpu', 'finite_difference')],
)
def test_a_float32_step_asks_for_float32_everywhere(platform, estimator):
    """Both directions of every pass, the meta-gradient's included."""
    found = products(
        lowered(*training_step('conv_small', jnp.float32, estimator=estimator), platform=platform)
    )
    assert len(found) > 30
    assert all(dtypes == {'f32'} and exact for dtypes, exact in found)


@pytest.mark.parametrize('name', sorted(MODELS))
def test_every_network_asks_for_it(name):
    model = create_model(name, 5, **SIZES.get(name, {'width': 2}))
    forward = functools.partial(model.apply, train=False)
    side = 2 * getattr(model, 'patch', 16)
    arguments = variable_shapes(model, (side, side, 3)), jnp.zeros((2, side, side, 3))
    found = products(lowered(forward, *arguments, platform='cuda'))
    assert found
    assert all(exact for _, exact in found)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_a_bfloat16_step_keeps_the_fast_products_but_for_its_last_layer(platform):
    # Strict promotion refuses Flax's BatchNorm in bfloat16.
    with jax.numpy_dtype_promotion('standard'):
        found = products(lowered(*training_step('conv_small', jnp.bfloat16), platform=platform))
    fast = [exact for dtypes, exact in found if dtypes == {'bf16'}]
    wide = [exact for dtypes, exact in found if dtypes == {'f32'}]
    assert len(fast) + len(wide) == len(found)
    assert len(fast) > 30
    assert not any(fast)
    assert wide
    assert all(wide)


def test_the_norm_of_the_gradient_is_a_sum_of_squares():
    """Elementwise products and sums are float32 everywhere; a dot product would not be."""
    text = lowered(optax.tree.norm, {'a': jnp.ones((3, 4)), 'b': jnp.ones(5)}, platform='cuda')
    assert 'stablehlo.reduce' in text
    assert not products(text)


def test_freematch_s_fairness_asks_for_it():
    state = {'class_probs': jnp.ones(3) / 3, 'histogram': jnp.ones(3) / 3}
    gradient = jax.grad(lambda logits: fairness_term(logits, jnp.ones(4), state))
    found = products(lowered(gradient, jnp.zeros((4, 3)), platform='tpu'))
    assert len(found) >= 2
    assert all(exact for _, exact in found)


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='as the name says')
def test_on_a_cpu_it_changes_no_bit(monkeypatch):
    model = create_model('conv_small', 5, width=2)
    variables = init_variables(model, jax.random.key(0), (8, 8, 3))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)

    def gradient(params):
        logits = functools.partial(model.apply, train=False)
        return jax.grad(lambda p: jnp.sum(logits(variables | {'params': p}, images) ** 2))(params)

    def ours(params):
        return gradient(params)

    exact = jax.jit(ours)(variables['params'])
    monkeypatch.setattr(layers, 'precision', lambda dtype: None)
    assert 'HIGHEST' not in jax.jit(gradient).lower(variables['params']).as_text()
    jax.tree.map(np.testing.assert_array_equal, exact, jax.jit(gradient)(variables['params']))
