import jax
import numpy as np

from metasemi_jax.methods import as_network
from metasemi_jax.models import create_model, init_variables


def test_statistics_are_those_of_undropped_images():
    model = create_model('conv_small', 3, width=2, dropout_rate=0.5)
    variables = init_variables(model, jax.random.key(0), (8, 8, 1))
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    usual, mended = as_network(model), as_network(model, undropped_statistics=True)
    key = jax.random.key(2)
    logits, dropped = usual.train_logits(variables, images, key)
    same, undropped = mended.train_logits(variables, images, key)
    _, without = usual.train_logits(variables, images, None)
    np.testing.assert_array_equal(logits, same)
    jax.tree.map(np.testing.assert_array_equal, undropped, without)
    assert not np.array_equal(dropped['block3']['bn']['var'], undropped['block3']['bn']['var'])
