"""The network for features, against NumPy."""

import jax
import numpy as np
import pytest

from metasemi_jax.data.batches.views import (
    STRONG_NOISE,
    WEAK_NOISE,
    feature_views,
    make_normalize,
    normalize_by,
)
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.models import create_model, init_variables
from metasemi_jax.training.recipe import Facts, choose
from test_recipe import fields


def test_its_layers_by_hand():
    model = create_model('mlp', 3, width=4)
    variables = init_variables(model, jax.random.key(0), (5,))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: x + rng.uniform(0.1, 1, x.shape).astype(x.dtype), variables)
    x = rng.normal(size=(6, 5)).astype(np.float32)
    logits, features = model.apply(variables, x, train=False, return_features=True)
    hidden, params, stats = x, variables['params'], variables['batch_stats']
    for i in (1, 2):
        hidden = hidden @ params[f'linear{i}']['kernel']
        bn, seen = params[f'bn{i}'], stats[f'bn{i}']
        hidden = (hidden - seen['mean']) / np.sqrt(seen['var'] + 1e-5) * bn['scale'] + bn['bias']
        hidden = np.where(hidden > 0, hidden, 0.1 * hidden)
    last = params['classifier']
    np.testing.assert_allclose(features, hidden, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(logits, hidden @ last['kernel'] + last['bias'], rtol=2e-5, atol=2e-5)
    assert {name for name in params if name.startswith('linear')} == {'linear1', 'linear2'}


def test_images_are_flattened_and_dropout_needs_its_key():
    model = create_model('mlp', 3, width=4, depth=1)
    variables = init_variables(model, jax.random.key(0), (2, 3, 1))
    images = np.random.default_rng(0).normal(size=(4, 2, 3, 1)).astype(np.float32)
    flat = model.apply(variables, images.reshape(4, 6), train=False)
    np.testing.assert_array_equal(model.apply(variables, images, train=False), flat)

    def train(**rngs):
        return model.apply(variables, images, train=True, mutable=['batch_stats'], rngs=rngs)[0]

    np.testing.assert_array_equal(train(), train())
    assert not np.array_equal(train(dropout=jax.random.key(0)), train())


def test_views_of_features_are_noise():
    features = np.zeros((4000, 2), np.float32)
    weak = feature_views('weak')
    first, second = (weak.weak(features, jax.random.key(i)) for i in range(2))
    assert not np.array_equal(first, second)
    assert np.std(first) == pytest.approx(WEAK_NOISE, rel=0.05)
    assert np.std(feature_views('strong').second(features, jax.random.key(0))) == pytest.approx(
        STRONG_NOISE, rel=0.05
    )
    assert feature_views(None).second is None
    np.testing.assert_array_equal(normalize_by(weak.statistics, first), first)
    form = InputSpec((2,), (), ())
    assert make_normalize(form) is make_normalize(InputSpec((2,), (), ()))
    np.testing.assert_array_equal(make_normalize(form)(features), features)


def test_the_recipe_for_features():
    facts = Facts((64,), num_images=1000, black_border=False, accelerator=True)
    chosen = choose(facts, fields())
    assert chosen['model.name'] == 'mlp'
    assert chosen['model.dropout_rate'] == 0.0
    assert chosen['data.pad'] == 0
    # An MLP of width 128: 128·(64 + 128) multiply-adds an example, which any CPU can afford.
    assert chosen['total_steps'] == 2000
