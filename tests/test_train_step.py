import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import xlogy

from metasemi_jax.batch import Batch
from metasemi_jax.methods import create_method
from metasemi_jax.models import create_model, init_variables
from metasemi_jax.optimizer import make_optimizer
from metasemi_jax.train_step import TrainState, make_train_step, metasemi_grads, update_ema

B, K, LR, META_LR, WEIGHT = 4, 3, 0.1, 0.7, 0.3
ROWS = {
    'labeled only': {'meta': False, 'mixup': False},
    'meta only': {'meta': True, 'mixup': False},
    'mix-up only': {'meta': False, 'mixup': True},
    'MetaSemi': {'meta': True, 'mixup': True},
}
each_row = pytest.mark.parametrize('row', ROWS)


def random_batch(seed=0, size=B, dtype=np.float32):
    rng = np.random.default_rng(seed)
    labeled, unlabeled = rng.normal(size=(2, size, 8, 8, 1)).astype(dtype)
    labels, unlabeled_labels = rng.integers(0, K, (2, size)).astype(np.int32)
    return Batch(labeled, labels, unlabeled, unlabeled_labels)


def random_variables(model, dtype=np.float32):
    """Initial weights, with statistics that are not at their start."""
    rng = np.random.default_rng(1)
    variables = jax.device_get(init_variables(model, jax.random.key(0), (8, 8, 1)))
    variables['batch_stats'] = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0, 0.5, leaf.shape), variables['batch_stats']
    )
    return jax.tree.map(lambda leaf: leaf.astype(dtype), variables)


# metasemi_grads against the method written out in one piece, in float64.


def written_out(model, params, stats, batch, mixup_lambda, *, meta, mixup):
    def evaluation_logits(params, images):
        return model.apply({'params': params, 'batch_stats': stats}, images, train=False)

    def label_loss(params):
        log_probs = jax.nn.log_softmax(evaluation_logits(params, batch.labeled_images))
        return -sum(log_probs[i, batch.labels[i]] for i in range(B)) / B

    def label_loss_after_step(y):
        def inner(params):
            return jnp.sum((jax.nn.softmax(evaluation_logits(params, batch.unlabeled_images)) - y) ** 2)

        return label_loss(jax.tree.map(lambda p, g: p - LR * g, params, jax.grad(inner)(params)))

    y = initial = jax.nn.softmax(evaluation_logits(params, batch.unlabeled_images))
    meta_gradient = jnp.zeros((B, K))
    if meta:
        meta_gradient = jax.grad(label_loss_after_step)(initial)
        y = jnp.maximum(initial - META_LR * meta_gradient, 0)
        y = y / y.sum(axis=1, keepdims=True)

    def train_logits(params, stats, images):
        variables = {'params': params, 'batch_stats': stats}
        logits, updates = model.apply(variables, images, train=True, mutable=['batch_stats'])
        return logits, updates['batch_stats']

    def loss(params):
        images, targets = batch.labeled_images, jnp.eye(K)[batch.labels]
        if mixup:
            x = mixup_lambda[:, None, None, None]
            images = x * images + (1 - x) * batch.unlabeled_images
            targets = mixup_lambda[:, None] * targets + (1 - mixup_lambda[:, None]) * y
        logits, after = train_logits(params, stats, images)
        classification = jnp.sum(xlogy(targets, targets) - targets * jax.nn.log_softmax(logits)) / B
        consistency = jnp.zeros(())
        if meta:
            logits, after = train_logits(params, after, batch.unlabeled_images)
            consistency = jnp.sum((jax.nn.softmax(logits) - y) ** 2) / B
        return classification + WEIGHT * consistency, (after, classification, consistency)

    (total, (after, classification, consistency)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    label_grad = jax.tree.leaves(jax.grad(label_loss)(params))
    aux = {
        'label_loss': label_loss(params),
        'label_grad_norm': jnp.sqrt(sum(jnp.sum(g**2) for g in label_grad)),
        'initial_pseudo': initial,
        'meta_gradient': meta_gradient,
        'updated_pseudo': y,
        'classification_loss': classification,
        'consistency_loss': consistency,
        'loss': total,
    }
    return grads, after, aux


@pytest.fixture(scope='module')
def rows():
    """For each row of the ablation: what metasemi_grads gives, and the method written out."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):  # Flax's BatchNorm needs it
        model = create_model('conv_small', K, width=4, dtype=jnp.float64)
        variables, batch = random_variables(model, np.float64), random_batch(dtype=np.float64)
        mixup_lambda = np.array([0.0, 0.3, 0.8, 1.0])

        def one_row(params, stats, batch, mixup_lambda, *, meta, mixup):
            ours = metasemi_grads(
                model, params, stats, batch, mixup_lambda=mixup_lambda if mixup else None, lr=LR,
                consistency_weight=WEIGHT, meta_lr=META_LR, estimator='jvp' if meta else None,
            )  # fmt: skip
            return ours, written_out(model, params, stats, batch, mixup_lambda, meta=meta, mixup=mixup)

        args = variables['params'], variables['batch_stats'], batch, mixup_lambda
        # One program: what the rows share is compiled once.
        every_row = jax.jit(lambda *args: {row: one_row(*args, **flags) for row, flags in ROWS.items()})
        return jax.device_get(every_row(*args))


@each_row
def test_gradients_statistics_and_aux_are_those_of_the_method_written_out(rows, row):
    ours, theirs = rows[row]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), ours, theirs)


@each_row
def test_aux(rows, row):
    (grads, _, aux), _ = rows[row]
    assert {name: value.shape for name, value in aux.items()} == {
        **dict.fromkeys(['initial_pseudo', 'meta_gradient', 'updated_pseudo'], (B, K)),
        **dict.fromkeys(['label_loss', 'label_grad_norm', 'classification_loss'], ()),
        **dict.fromkeys(['consistency_loss', 'loss'], ()),
    }
    meta = ROWS[row]['meta']
    assert (aux['consistency_loss'] > 0) == meta
    assert np.any(aux['meta_gradient'] != 0) == meta
    assert np.any(aux['updated_pseudo'] != aux['initial_pseudo']) == meta
    assert (aux['loss'] == aux['classification_loss']) == (not meta)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


def test_the_rows_see_different_losses(rows):
    losses = {row: ours[2]['classification_loss'] for row, (ours, _) in rows.items()}
    # Without mix-up the labeled images alone count; with it, the pseudo-labels matter.
    np.testing.assert_allclose(losses['labeled only'], losses['meta only'], rtol=1e-12)
    assert abs(losses['mix-up only'] - losses['MetaSemi']) > 1e-5
    assert abs(losses['mix-up only'] - losses['labeled only']) > 1e-3


def test_train_passes_alone_move_the_statistics(rows):
    # One pass over the labeled images, or two: the meta passes leave no trace in either.
    with jax.numpy_dtype_promotion('standard'), jax.enable_x64(True):
        model = create_model('conv_small', K, width=4, dtype=jnp.float64)
        variables, batch = random_variables(model, np.float64), random_batch(dtype=np.float64)
        train = jax.jit(functools.partial(model.apply, train=True, mutable=['batch_stats']))
        _, once = train(variables, batch.labeled_images)
        _, twice = train(variables | once, batch.unlabeled_images)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)
    jax.tree.map(close, rows['labeled only'][0][1], once['batch_stats'])
    jax.tree.map(close, rows['meta only'][0][1], twice['batch_stats'])


# The cost, and the paper's estimator in the step.


@pytest.mark.skipif(jax.default_backend() == 'gpu', reason="XLA counts no convolutions of a GPU's libraries")
def test_flops_and_epsilon():
    model = create_model('conv_small', 10, width=16)
    variables, batch = random_variables(model), random_batch(size=16)
    mixup_lambda = np.linspace(0, 1, 16, dtype=np.float32)

    def compiled(estimator):
        def grads(params, stats, batch, mixup_lambda, epsilon):
            found, _, aux = metasemi_grads(
                model, params, stats, batch, mixup_lambda=mixup_lambda, lr=LR, consistency_weight=1.0,
                estimator=estimator, epsilon=epsilon,
            )  # fmt: skip
            return found, aux['meta_gradient']

        args = variables['params'], variables['batch_stats'], batch, mixup_lambda
        return functools.partial(jax.jit(grads).lower(*args, 1e-2).compile(), *args), args

    def flops(program):
        return program.cost_analysis()['flops']

    forward = jax.jit(functools.partial(model.apply, train=False))
    one = flops(forward.lower(variables, batch.labeled_images).compile())
    (jvp, _), (central, _) = compiled('jvp'), compiled('finite_difference')
    for program in (jvp, central):
        assert 9 < flops(program.func) / one < 12.2
    gradient = jvp(1e-2)[1]

    def distance(epsilon):
        return np.linalg.norm(central(epsilon)[1] - gradient) / np.linalg.norm(gradient)

    assert distance(1e-2) < 0.05
    assert distance(3.0) > 2 * distance(1e-2)


# The whole step.


class Run:
    """MetaSemi with everything switched on, in float32."""

    def __init__(self):
        self.model = create_model('conv_small', K, width=4)
        self.tx = make_optimizer('sgd', momentum=0.9, weight_decay=0.0)
        self.start = TrainState.create(random_variables(self.model), self.tx, with_ema=True)
        self.step = jax.jit(
            make_train_step(
                create_method('metasemi', self.model, rampup_steps=0), self.tx,
                lr_schedule=lambda step: jnp.float32(LR), ema_decay=0.6,
            )
        )  # fmt: skip

    def states(self, count, batch_of=random_batch, key=0):
        states = [self.start]
        for i in range(count):
            state, metrics = self.step(states[-1], batch_of(i), jax.random.key(key + i))
            states.append(state)
        return jax.device_get(states), jax.device_get(metrics)


@pytest.fixture(scope='module')
def run():
    return Run()


def assert_bitwise_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def differs(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def test_training_moves_every_parameter_and_statistic(run):
    # Without weight decay, so that it is the gradient that moves them.
    states, _ = run.states(5)
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]
    for name in ('params', 'batch_stats'):
        first, last = (jax.tree.leaves(getattr(states[i], name)) for i in (0, -1))
        assert all(np.all(a != b) for a, b in zip(first, last, strict=True))


def test_same_inputs_same_outputs(run):
    assert_bitwise_equal(run.states(3), run.states(3))


def test_the_key_decides_mixup_and_dropout(run):
    assert differs(run.states(1)[0][-1].params, run.states(1, key=7)[0][-1].params)


def test_the_key_decides_dropout_alone(run):
    # Labeled only: nothing else is random there.
    step = jax.jit(
        make_train_step(
            create_method('supervised', run.model), run.tx, lr_schedule=lambda step: jnp.float32(LR)
        )
    )
    start = run.start.replace(ema={})
    first, again, other = (step(start, random_batch(), jax.random.key(seed))[0] for seed in (0, 0, 1))
    assert_bitwise_equal(first, again)
    assert differs(first.params, other.params)


def test_garbage_for_the_unlabeled_labels_changes_no_bit(run):
    def garbage(seed):
        return random_batch(seed)._replace(unlabeled_labels=np.full(B, -1, np.int32))

    (true, true_metrics), (false, false_metrics) = run.states(3), run.states(3, garbage)
    assert_bitwise_equal(true, false)
    # Metrics do read them: none is known now.
    assert true_metrics['pseudo_label_accuracy_before'][1] == B
    assert false_metrics['pseudo_label_accuracy_before'][1] == 0


def test_ema_of_a_run_by_hand(run):
    # Keep 0, ½, 0.6: the first weights, the mean of the first two, then the decay.
    states, _ = run.states(3)
    one, two, three = ({'params': s.params, 'batch_stats': s.batch_stats} for s in states[1:])
    assert_bitwise_equal(states[1].ema, one)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda e, a, b: close(e, (a + b) / 2), states[2].ema, one, two)
    jax.tree.map(lambda e, a, b, c: close(e, 0.3 * a + 0.3 * b + 0.4 * c), states[3].ema, one, two, three)


def test_update_ema_by_hand():
    ema = {'w': jnp.float32(-100)}
    for step, (value, expected) in enumerate([(1, 1), (2, 1.5), (6, 3), (8, 4.25), (0, 3.1875)]):
        # Keep 0, ½, ⅔, ¾, then 0.75 rather than ⅘.
        ema = update_ema(ema, {'w': jnp.float32(value)}, jnp.int32(step), 0.75)
        np.testing.assert_allclose(ema['w'], expected, rtol=1e-6)
    assert update_ema({}, {'w': jnp.float32(1)}, jnp.int32(0), 0.9) == {}


def test_sgd_of_the_step_by_hand():
    # Labeled only, no dropout: v ← 0.9 v + g + 0.01 θ, θ ← θ - lr(t) v, with lr(0) in the first step.
    with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
        model = create_model('conv_small', K, width=4, dtype=jnp.float64, dropout_rate=0.0)
        tx = make_optimizer('sgd', momentum=0.9, weight_decay=0.01)
        step = jax.jit(
            make_train_step(
                create_method('supervised', model), tx, lr_schedule=lambda step: 0.1 * (step + 1.0)
            )
        )  # fmt: skip
        grads = jax.jit(
            lambda state, batch: metasemi_grads(
                model, state.params, state.batch_stats, batch, mixup_lambda=None, lr=0.1,
                consistency_weight=0.0, estimator=None,
            )[0]
        )  # fmt: skip
        # A GPU sums the gradients of the two programs in another order, which shows in weights close to 0.
        floor = 0 if jax.default_backend() == 'cpu' else 1e-12
        state = TrainState.create(random_variables(model, np.float64), tx)
        params = state.params
        velocity = jax.tree.map(np.zeros_like, params)
        for t in range(3):
            batch = random_batch(t, dtype=np.float64)
            gradient = grads(state, batch)
            velocity = jax.tree.map(lambda v, g, p: 0.9 * v + g + 0.01 * p, velocity, gradient, params)
            params = jax.tree.map(lambda p, v, lr=0.1 * (t + 1): p - lr * v, params, velocity)
            state, metrics = step(state, batch, jax.random.key(t))
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=floor), state.params, params
            )
            np.testing.assert_allclose(metrics['lr'], [0.1 * (t + 1), 1], rtol=1e-6)


@each_row
def test_metrics_of_each_row(row, run):
    flags = ROWS[row]
    step = make_train_step(
        create_method('metasemi', run.model, **flags), run.tx, lr_schedule=lambda step: jnp.float32(LR)
    )  # fmt: skip
    start = run.start.replace(ema={})
    state, metrics = jax.eval_shape(step, start, random_batch(), jax.random.key(0))
    assert {leaf.shape for leaf in metrics.values()} == {(2,)}
    assert {leaf.dtype for leaf in metrics.values()} == {jnp.dtype('float32')}
    assert ('consistency_loss' in metrics) == flags['meta']
    assert ('pseudo_label_accuracy_after' in metrics) == flags['meta']
    assert ('pseudo_label_accuracy_before' in metrics) == (flags['meta'] or flags['mixup'])
    assert {'loss', 'classification_loss', 'lr'} <= set(metrics)
    assert state.ema == {}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float64'])
@pytest.mark.parametrize('estimator', ['exact', 'jvp', 'finite_difference'])
def test_dtypes_of_the_state_are_kept(dtype, estimator):
    # float32 under strict promotion; Flax's BatchNorm cannot do the others there.
    promotion = 'strict' if dtype == 'float32' else 'standard'
    wide = 'float64' if dtype == 'float64' else 'float32'
    with jax.enable_x64(dtype == 'float64'), jax.numpy_dtype_promotion(promotion):
        model = create_model('conv_small', K, width=4, dtype=jnp.dtype(dtype))
        tx = make_optimizer('sgd', momentum=0.9, weight_decay=1e-4)
        step = make_train_step(
            create_method('metasemi', model, estimator=estimator), tx,
            lr_schedule=lambda step: jnp.asarray(LR, float), ema_decay=0.9,
        )  # fmt: skip
        state = TrainState.create(init_variables(model, jax.random.key(0), (8, 8, 1)), tx, with_ema=True)
        after, _ = jax.eval_shape(step, state, random_batch(), jax.random.key(0))
    assert after == jax.eval_shape(lambda s: s, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(wide)}
