"""Methods run through `create_method` and `make_train_step` on the network of mlp_by_hand.py, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metasemi_jax.batch import Batch
from metasemi_jax.methods import Network, create_method, method_options
from metasemi_jax.methods.mixup import sample_lambda
from metasemi_jax.train_step import TrainState, make_train_step
from mlp_by_hand import combine

LR, EMA_DECAY = 0.1, 0.9
NUM_CLASSES, NUM_LABELED, NUM_UNLABELED, POOL = 3, 4, 8, 8
SHAPE = (3, 3, 1)
TOTAL_STEPS = 10
# The derivations' names of our options.
DERIVED = {
    'consistency_weight': 'weight',
    'entropy_weight': 'entmin_weight',
    'most': 'clip',
    'fairness_weight': 'saf_weight',
    'num_sigma': 'n_sigma',
    'rampup_share': 'ramp_share',
    'rampup_steps': 'ramp_steps',
    'meta_moves': 'meta_of',
}


def derived(options):
    """The options of `create_method` as method_derivations.py has them."""
    options = {DERIVED.get(name, name): value for name, value in options.items()}
    if options.pop('at_inner_step', False):
        options['meta_at'] = 'theta_tilde'
    for ours in ('estimator', 'batch_norm', 'total_steps'):
        options.pop(ours, None)
    return options


def mlp():
    """logits = tanh(x @ W1 + b1) @ W2 + b2, without statistics or dropout."""

    def logits(variables, images):
        params = variables['params']
        flat = images.reshape(len(images), -1)
        return jnp.tanh(flat @ params['W1'] + params['b1']) @ params['W2'] + params['b2']

    return Network(logits, lambda variables, images, key: (logits(variables, images), {}))


def make_problem(seed=2, steps=3):
    """Weights and the batches of some steps; within a batch every unlabeled image comes once."""
    rng = np.random.default_rng(seed)
    sizes = {'W1': (9, 6), 'b1': (6,), 'W2': (6, NUM_CLASSES), 'b2': (NUM_CLASSES,)}
    params = {name: rng.normal(size=size) * 0.6 for name, size in sizes.items()}
    batches = []
    for _ in range(steps):
        weak = rng.normal(size=(NUM_UNLABELED, *SHAPE))
        batches.append(
            {
                'labeled_images': rng.normal(size=(NUM_LABELED, *SHAPE)),
                'labels': rng.integers(NUM_CLASSES, size=NUM_LABELED),
                'unlabeled_images': weak,
                'strong_images': weak + 0.3 * rng.normal(size=weak.shape),
                'unlabeled_ids': rng.permutation(POOL)[:NUM_UNLABELED],
            }
        )
    return params, batches


def draws_of(method, options, key):
    """The random numbers that a method draws in the step of `key`, by the names of method_derivations.py."""
    draw, _ = jax.random.split(key)
    key = jax.random.fold_in(draw, 1)
    gamma = options.get('mixup_gamma', method_options(method).get('mixup_gamma'))
    if method == 'vat':
        return {'noise': jax.random.normal(key, (NUM_UNLABELED, *SHAPE), float)}
    if method == 'metasemi':
        return {'mix': sample_lambda(draw, NUM_LABELED, gamma=gamma)}
    rows = {'ict': NUM_UNLABELED, 'mixmatch': NUM_LABELED + 2 * NUM_UNLABELED}.get(method)
    if rows is None:
        return {}
    lambda_key, order_key = jax.random.split(key)
    mix = sample_lambda(lambda_key, rows, gamma=gamma)
    return {'mix': mix, 'permutation': jax.random.permutation(order_key, rows)}


def our_steps(name, options, batches, params):
    """A dict for each step: loss, gradients, weights, teacher, state, targets, weights of the examples."""
    if 'total_steps' in method_options(name):
        options = options | {'total_steps': TOTAL_STEPS}
    method = create_method(name, mlp(), **options)

    def loss_that_shows(params, inputs, keys):
        # The step logs float32 sums alone: what else is compared goes out with the method's state.
        loss, outcome = method.loss(params, inputs, keys)
        return loss, outcome._replace(state=(outcome.state, outcome.aux))

    # A trace without memory keeps the gradient in its state.
    tx = optax.trace(decay=0.0)
    # Not jitted: its operations are compiled once for all methods, which takes half the time.
    step = make_train_step(
        method._replace(loss=loss_that_shows),
        tx,
        lr_schedule=lambda step: jnp.asarray(LR),
        ema_decay=EMA_DECAY,
        ema_convention='constant',
    )
    state = TrainState.create(
        {'params': jax.tree.map(jnp.asarray, params)},
        tx,
        with_ema=True,
        method_state=method.init(NUM_CLASSES, POOL),
    )
    for number, batch in enumerate(batches):
        batch = Batch(**{field: jnp.asarray(value) for field, value in batch.items()})
        state, metrics = step(state, batch, jax.random.key(number))
        own, aux = state.method
        state = state.replace(method=own)
        yield {
            'loss': aux['loss'],
            'labeled_loss': aux['classification_loss'],
            'unlabeled_loss': aux.get('consistency_loss', 0.0),
            'grads': state.opt_state.trace,
            'params': state.params,
            'ema': state.ema['params'],
            'state': own,
            'targets': aux.get('labels'),
            'weights': aux.get('weights'),
            'logged_loss': metrics['loss'][0] / metrics['loss'][1],
        }


def derived_steps(module, name, options, batches, params):
    """The same from method_derivations.py, whose plain SGD and average are written out here."""
    ema, state = params, module.initial_state(name, num_unlabeled=POOL, num_classes=NUM_CLASSES)
    for number, batch in enumerate(batches):
        result = module.step(
            name,
            params,
            ema,
            state,
            batch,
            {
                field: np.asarray(value)
                for field, value in draws_of(name, options, jax.random.key(number)).items()
            },
            step=number,
            total_steps=TOTAL_STEPS,
            num_classes=NUM_CLASSES,
            options=derived(options) | {'lr': LR},
        )
        params, state = combine(params, result['grads'], -LR), result['state']
        ema = {field: EMA_DECAY * ema[field] + (1 - EMA_DECAY) * params[field] for field in params}
        yield result | {'params': params, 'ema': ema}


close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
