"""The derivations against finite differences and values worked out by hand. NumPy alone."""

import numpy as np
import pytest

from method_derivations import (
    METHODS,
    adversarial_perturbation,
    flexible_thresholds,
    initial_state,
    loss_and_grads,
    prepare,
    project,
    self_adaptive_fairness,
    settings_of,
    step,
    truncated_gaussian,
    unlabeled_weight,
)
from mlp_by_hand import (
    LOSSES,
    combine,
    complex_gradient,
    cross_derivatives,
    directional_derivatives,
    forward,
    labeled_cross_entropy,
    log_softmax,
    meta_gradients,
    predict,
    weighted_loss,
)

NUM_CLASSES, NUM_LABELED, NUM_UNLABELED, POOL = 3, 4, 8, 20
SHAPE = (3, 3, 1)
TOTAL_STEPS = 10
# Thresholds near the small network's confidence, so that some rows are masked and some are not.
VARIANTS = {
    'supervised': {},
    'pseudo_label': {'threshold': 0.6},
    'pi_model': {},
    'temporal_ensembling': {},
    'mean_teacher': {},
    'vat': {},
    'vat_entmin': {'entmin_weight': 0.06},
    'ict': {},
    'mixmatch': {},
    'uda': {'threshold': 0.6},
    'fixmatch': {'threshold': 0.6},
    'flexmatch': {'threshold': 0.6},
    'freematch': {'saf_weight': 0.3, 'momentum': 0.5},
    'softmatch': {'momentum': 0.5},
    'metasemi': {'lr': 0.1},
    'metasemi_meta': {'lr': 0.1, 'mixup': False},
    'metasemi_mixup': {'meta': False},
    'metasemi_labeled': {'meta': False, 'mixup': False},
}


def method_of(variant):
    return variant if variant in METHODS else variant.rsplit('_', 1)[0]


def make_problem(seed=2):
    rng = np.random.default_rng(seed)
    sizes = {'W1': (9, 6), 'b1': (6,), 'W2': (6, NUM_CLASSES), 'b2': (NUM_CLASSES,)}
    params = {name: rng.normal(size=size) * 0.6 for name, size in sizes.items()}
    ema_params = {name: value + 0.1 * rng.normal(size=value.shape) for name, value in params.items()}
    weak = rng.normal(size=(NUM_UNLABELED, *SHAPE))
    batch = {
        'labeled_images': rng.normal(size=(NUM_LABELED, *SHAPE)),
        'labels': rng.integers(NUM_CLASSES, size=NUM_LABELED),
        'unlabeled_images': weak,
        'strong_images': weak + 0.3 * rng.normal(size=weak.shape),
        'unlabeled_ids': rng.permutation(POOL)[:NUM_UNLABELED],
    }
    return params, ema_params, batch, rng


def draws_for(method, rng):
    rows = NUM_LABELED + 2 * NUM_UNLABELED
    return {
        'vat': {'noise': rng.normal(size=(NUM_UNLABELED, *SHAPE))},
        'ict': {'mix': rng.beta(1, 1), 'permutation': rng.permutation(NUM_UNLABELED)},
        'mixmatch': {'mix': rng.beta(0.75, 0.75, rows), 'permutation': rng.permutation(rows)},
        'metasemi': {'mix': rng.beta(1, 1, NUM_LABELED)},
    }.get(method, {})


def run_step(variant, state=None, index=3, **deviations):
    params, ema_params, batch, rng = make_problem()
    method = method_of(variant)
    state = state or initial_state(method, num_unlabeled=POOL, num_classes=NUM_CLASSES)
    options = VARIANTS[variant] | deviations
    return step(
        method,
        params,
        ema_params,
        state,
        batch,
        draws_for(method, rng),
        step=index,
        total_steps=TOTAL_STEPS,
        num_classes=NUM_CLASSES,
        options=options,
    )


def central_differences(function, params, width=1e-6):
    result = {}
    for name, value in params.items():
        result[name] = np.zeros(value.shape)
        for entry in np.ndindex(value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[entry] += sign * width
                ends.append(function(params | {name: moved}))
            result[name][entry] = (ends[0] - ends[1]) / (2 * width)
    return result


@pytest.mark.parametrize('variant', VARIANTS)
def test_gradients_against_finite_differences_and_complex_steps(variant):
    params, ema_params, batch, rng = make_problem()
    method, settings = method_of(variant), settings_of(method_of(variant), VARIANTS[variant])
    state = initial_state(method, num_unlabeled=POOL, num_classes=NUM_CLASSES)
    if method == 'temporal_ensembling':
        # The first visit has no target; the second has.
        state = run_step(variant)['state']
        state['ensemble'] = state['ensemble'] * 1.2
    draws = draws_for(method, rng)
    plan = prepare(
        method, params, ema_params, state, batch, draws, num_classes=NUM_CLASSES, settings=settings
    )
    if method in ('pseudo_label', 'uda', 'fixmatch', 'freematch'):
        assert 0 < plan['weights'].sum() < NUM_UNLABELED
    result = loss_and_grads(params, plan, weight=0.7, settings=settings)

    def loss(moved):
        return loss_and_grads(moved, plan, weight=0.7, settings=settings)['loss']

    differences = central_differences(loss, params)
    for name, gradient in result['grads'].items():
        np.testing.assert_allclose(gradient, differences[name], rtol=1e-6, atol=1e-8)
        exact = complex_gradient(lambda moved, name=name: loss(params | {name: moved}), params[name])
        np.testing.assert_allclose(gradient, exact, rtol=1e-12, atol=1e-14)
        assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_loss_is_the_sum_of_its_parts(variant):
    result = run_step(variant)
    weight = unlabeled_weight(settings_of(method_of(variant), VARIANTS[variant]), 3, TOTAL_STEPS)
    extra = result['loss'] - result['labeled_loss'] - weight * result['unlabeled_loss']
    if variant == 'vat_entmin':
        params, _, batch, _ = make_problem()
        probs = predict(params, batch['unlabeled_images'])
        assert extra == pytest.approx(-0.06 * (probs * np.log(probs)).sum(axis=1).mean())
    elif variant == 'freematch':
        assert extra < -0.01
    else:
        assert extra == pytest.approx(0, abs=1e-14)


def test_weight_schedules():
    linear = settings_of('mean_teacher', {})
    assert [unlabeled_weight(linear, t, 1000) for t in (0, 200, 400, 900)] == [0, 25, 50, 50]
    gauss = settings_of('temporal_ensembling', {})
    ramp = [unlabeled_weight(gauss, t, 300) for t in (0, 40, 80, 200)]
    np.testing.assert_allclose(ramp, [30 * np.exp(-5), 30 * np.exp(-1.25), 30, 30])
    assert unlabeled_weight(settings_of('mixmatch', {}), 32, 64 * 64) == 37.5
    assert unlabeled_weight(settings_of('metasemi', {}), 1000, 5) == 0.25
    assert unlabeled_weight(settings_of('fixmatch', {}), 0, 5) == 1


# The meta-gradient.


def meta_problem(loss):
    params, _, batch, rng = make_problem(1)
    targets = project(predict(params, batch['unlabeled_images']) + 0.2 * rng.random((NUM_UNLABELED, 3)))
    weights = rng.random(NUM_UNLABELED)
    outer = (batch['labeled_images'], batch['labels'])
    return params, outer, batch['strong_images'], targets, weights


@pytest.mark.parametrize('loss', LOSSES)
def test_the_meta_gradient_is_one_derivative_along_the_labeled_gradient_at_theta_tilde(loss):
    params, outer, views, targets, weights = meta_problem(loss)
    by_targets, by_weights = meta_gradients(
        params, *outer, views, targets, weights, loss=loss, lr=0.3, at='theta_tilde'
    )
    _, inner = weighted_loss(params, views, targets, weights, loss, reduce='sum')
    _, direction = labeled_cross_entropy(combine(params, inner, -0.3), *outer)
    expected = cross_derivatives(params, direction, views, targets, weights, loss=loss, lr=0.3)
    np.testing.assert_allclose(by_targets, expected[0], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(by_weights, expected[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize('loss', LOSSES)
def test_the_meta_gradient_against_finite_differences(loss):
    params, outer, views, targets, weights = meta_problem(loss)
    exact = meta_gradients(params, *outer, views, targets, weights, loss=loss, lr=0.3, at='theta_tilde')

    def outer_loss(moved):
        _, inner = weighted_loss(params, views, moved['q'], moved['m'], loss, reduce='sum')
        return labeled_cross_entropy(combine(params, inner, -0.3), *outer)[0]

    expected = central_differences(outer_loss, {'q': targets, 'm': weights})
    np.testing.assert_allclose(exact[0], expected['q'], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(exact[1], expected['m'], rtol=1e-6, atol=1e-8)


def test_the_meta_gradient_at_theta_is_one_tangent_of_the_log_probabilities():
    params, outer, views, targets, weights = meta_problem('ce')
    _, direction = labeled_cross_entropy(params, *outer)
    ends = [log_softmax(forward(combine(params, direction, h), views)[0]) for h in (1e-5, -1e-5)]
    tangent = (ends[0] - ends[1]) / 2e-5
    by_targets, by_weights = meta_gradients(
        params, *outer, views, targets, weights, loss='ce', lr=0.3, at='theta'
    )
    np.testing.assert_allclose(by_targets, 0.3 * weights[:, None] * tangent, atol=1e-9)
    np.testing.assert_allclose(by_weights, 0.3 * (targets * tangent).sum(axis=1), atol=1e-9)


@pytest.mark.parametrize('at', ['theta', 'theta_tilde'])
def test_metasemi_is_the_meta_gradient_at_the_networks_own_predictions(at):
    params, outer, views, _, _ = meta_problem('mse_sum')
    probs = predict(params, views)
    by_targets, by_weights = meta_gradients(
        params, *outer, views, probs, np.ones(len(probs)), loss='mse_sum', lr=0.1, at=at
    )
    _, direction = labeled_cross_entropy(params, *outer)
    product = directional_derivatives(params, direction, views)
    np.testing.assert_allclose(by_targets, 2 * 0.1 * product, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(by_weights, 0, atol=1e-16)


@pytest.mark.parametrize('at', ['theta', 'theta_tilde'])
@pytest.mark.parametrize('variant', ['uda', 'fixmatch', 'softmatch', 'mixmatch', 'mean_teacher'])
def test_meta_moves_what_it_is_told_to_move(variant, at):
    plain = run_step(variant)
    meta = {'meta': True, 'lr': 0.5, 'meta_at': at}
    labels, weights, both = (run_step(variant, **meta, meta_of=of) for of in ('labels', 'weights', 'both'))
    np.testing.assert_array_equal(weights['targets'], plain['targets'])
    assert np.abs(weights['weights'] - plain['weights']).max() > 1e-3
    np.testing.assert_array_equal(both['targets'], labels['targets'])
    if variant in ('uda', 'mixmatch', 'mean_teacher'):
        np.testing.assert_array_equal(labels['weights'], plain['weights'])
        np.testing.assert_array_equal(both['weights'], weights['weights'])
        assert np.abs(labels['targets'] - plain['targets']).max() > 1e-3
    for result in (labels, weights, both):
        assert result['weights'].min() >= 0
        np.testing.assert_allclose(result['targets'].sum(axis=1), 1)
        assert result['labeled_loss'] == plain['labeled_loss']
        for name, value in plain['state'].items():
            np.testing.assert_array_equal(result['state'][name], value)


def test_projection_by_hand():
    moved = project(np.array([[0.5, 0.75, -0.25], [-0.5, -0.25, -0.25]]))
    np.testing.assert_allclose(moved, [[0.4, 0.6, 0], [0, 0, 0]])


# Each method's own values.


def test_pseudo_label_threshold_is_strict_and_fixmatch_threshold_is_not():
    params, _, batch, _ = make_problem()
    confidence = predict(params, batch['unlabeled_images']).max(axis=1)
    threshold = np.sort(confidence)[3]
    assert run_step('pseudo_label', threshold=threshold)['weights'].sum() == 4
    for method in ('fixmatch', 'uda'):
        assert run_step(method, threshold=threshold)['weights'].sum() == 5


def test_uda_sharpens_the_target_and_not_the_mask():
    params, _, batch, _ = make_problem()
    result = run_step('uda', temperature=0.1)
    probs = predict(params, batch['unlabeled_images'])
    np.testing.assert_array_equal(result['weights'], probs.max(axis=1) >= 0.6)
    np.testing.assert_allclose(result['targets'], project(probs**10))
    assert (result['targets'].max(axis=1) > 0.6).all()


def test_temporal_ensembling_corrects_its_bias():
    params, _, batch, _ = make_problem()
    probs, ids = predict(params, batch['unlabeled_images']), batch['unlabeled_ids']
    first = run_step('temporal_ensembling')
    np.testing.assert_array_equal(first['weights'], 0)
    assert first['unlabeled_loss'] == 0
    np.testing.assert_allclose(first['state']['ensemble'][ids], 0.4 * probs)
    assert first['state']['count'].sum() == NUM_UNLABELED
    # Seen once, the target is exactly the last prediction; the loss vanishes if that is today's too.
    second = run_step('temporal_ensembling', state=first['state'])
    np.testing.assert_allclose(second['targets'], probs, rtol=1e-15)
    np.testing.assert_array_equal(second['weights'], 1)
    assert second['unlabeled_loss'] == pytest.approx(0, abs=1e-30)
    # Seen twice: (0.6 · 0.4 + 0.4) / (1 − 0.36) = 1.
    np.testing.assert_allclose(second['state']['ensemble'][ids], 0.64 * probs)


def test_flexmatch_thresholds_by_hand():
    # Two decided for class 0, one for class 1, none for class 2, four undecided: a = 1/2, 1/4, 0.
    last_class = np.array([0, -1, 1, -1, 0, -1, -1])
    np.testing.assert_allclose(flexible_thresholds(last_class, 3, 0.95), 0.95 * np.array([1 / 3, 1 / 7, 0]))
    # Class 0 leads the undecided: a = 1, 1/3, 0.
    last_class = np.array([0, 0, 0, 1, -1, -1])
    np.testing.assert_allclose(flexible_thresholds(last_class, 3, 0.95), 0.95 * np.array([1, 0.2, 0]))


def test_flexmatch_uses_all_images_at_first_and_records_the_confident():
    params, _, batch, _ = make_problem()
    probs = predict(params, batch['unlabeled_images'])
    result = run_step('flexmatch')
    np.testing.assert_array_equal(result['weights'], 1)
    expected = np.full(POOL, -1)
    for i, p in zip(batch['unlabeled_ids'], probs, strict=True):
        if p.max() >= 0.6:
            expected[i] = p.argmax()
    np.testing.assert_array_equal(result['state']['last_class'], expected)
    assert (expected == -1).sum() > POOL - NUM_UNLABELED
    # An image that is no longer confident keeps its class.
    kept = run_step('flexmatch', state=result['state'], threshold=0.999)
    np.testing.assert_array_equal(kept['state']['last_class'], expected)


def test_freematch_updates_by_hand():
    params, _, batch, _ = make_problem()
    probs = predict(params, batch['unlabeled_images'])
    state = {
        'threshold': np.array(0.5),
        'class_probs': np.array([0.5, 0.25, 0.25]),
        'histogram': np.array([0.2, 0.4, 0.4]),
    }
    result = run_step('freematch', state=state, momentum=0.9)
    new = result['state']
    assert new['threshold'] == pytest.approx(0.45 + 0.1 * np.mean([max(p) for p in probs]))
    np.testing.assert_allclose(new['class_probs'], 0.9 * state['class_probs'] + 0.1 * sum(probs) / 8)
    shares = [sum(p.argmax() == k for p in probs) / 8 for k in range(3)]
    np.testing.assert_allclose(new['histogram'], 0.9 * state['histogram'] + 0.1 * np.array(shares))
    # The mask uses the new state.
    local = new['threshold'] * new['class_probs'] / max(new['class_probs'])
    np.testing.assert_array_equal(result['weights'], [p.max() >= local[p.argmax()] for p in probs])
    clipped = run_step('freematch', state=state, momentum=0.9, clip=0.4)
    assert clipped['state']['threshold'] == 0.4


def test_fairness_term_by_hand():
    # Two masked rows whose strong classes are 0 and 1; a third row is left out. Class 2 is absent.
    strong = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]])
    plan = {
        'mask': np.array([True, True, False]),
        'state': {'class_probs': np.array([0.4, 0.4, 0.2]), 'histogram': np.array([0.4, 0.2, 0.4])},
    }
    value, gradient = self_adaptive_fairness(np.log(strong), plan)
    # Expected shares (1, 2, .5) / 3.5; means (.4, .5, .1) over (½, ½, –) give (.8, 1, 0) / 1.8.
    expected = 1 / 3.5 * np.log(4 / 9) + 2 / 3.5 * np.log(5 / 9) + 0.5 / 3.5 * np.log(1e-12)
    assert value == pytest.approx(expected)
    np.testing.assert_array_equal(gradient[2], 0)
    empty = self_adaptive_fairness(np.log(strong), plan | {'mask': np.zeros(3, bool)})
    assert empty[0] == 0
    np.testing.assert_array_equal(empty[1], 0)


def test_softmatch_weight_is_a_gaussian_truncated_at_the_mean():
    confidence = np.array([0.6, 0.7, 0.99, 0.5, 0.4])
    weights = truncated_gaussian(confidence, 0.6, 0.04, 2)
    # σ/n = 0.1, so the rows below the mean lie 1 and 2 of it away.
    np.testing.assert_allclose(weights, [1, 1, 1, np.exp(-0.5), np.exp(-2)])


def test_softmatch_updates_by_hand():
    params, _, batch, _ = make_problem()
    probs = predict(params, batch['unlabeled_images'])
    first = run_step('softmatch', momentum=0.9)
    state = first['state']
    # The first batch sets the class probabilities; then each aligned column has the same mean, nearly.
    np.testing.assert_allclose(state['class_probs'], probs.mean(axis=0))
    aligned = project(probs / probs.mean(axis=0))
    confidence = aligned.max(axis=1)
    mean = 0.9 / 3 + 0.1 * confidence.mean()
    variance = 0.9 + 0.1 * ((confidence - confidence.mean()) ** 2).sum() / 7
    np.testing.assert_allclose(state['mean'], mean, rtol=1e-5)
    np.testing.assert_allclose(state['variance'], variance, rtol=1e-5)
    np.testing.assert_array_equal(first['targets'].argmax(axis=1), probs.argmax(axis=1))
    second = run_step('softmatch', state=state | {'class_probs': np.array([0.2, 0.3, 0.5])}, momentum=0.9)
    new = second['state']['class_probs']
    np.testing.assert_allclose(new, 0.9 * np.array([0.2, 0.3, 0.5]) + 0.1 * probs.mean(axis=0))


def test_vat_perturbation_has_its_radius_and_raises_the_divergence():
    params, _, batch, rng = make_problem()
    images = batch['unlabeled_images']
    clean = predict(params, images)
    settings = settings_of('vat', {'radius': 0.1})
    noise = rng.normal(size=images.shape)
    perturbation = adversarial_perturbation(params, images, noise, settings)
    np.testing.assert_allclose(np.linalg.norm(perturbation, axis=1), 0.1, rtol=1e-5)

    def divergence(offset):
        return (clean * np.log(clean / predict(params, images.reshape(8, 9) + offset))).sum(axis=1)

    flat = noise.reshape(8, 9)
    random = 0.1 * flat / np.linalg.norm(flat, axis=1, keepdims=True)
    assert divergence(perturbation).mean() > 1.5 * divergence(random).mean()
    # As ξ → 0 the direction is that of the Hessian times the noise; ξ = 1e-6 and 1e-4 agree.
    wider = adversarial_perturbation(params, images, noise, settings | {'xi': 1e-4})
    np.testing.assert_allclose(perturbation, wider, atol=1e-4)


def test_ict_interpolates_images_and_teacher_alike():
    params, ema_params, batch, _ = make_problem()
    state, options = {}, {'ramp': 'constant'}
    last = {'step': 0, 'total_steps': 1, 'num_classes': 3, 'options': options}
    partner = np.array([1, 0, 3, 2, 5, 4, 7, 6])
    results = [
        step('ict', params, ema_params, state, batch, {'mix': mix, 'permutation': partner}, **last)
        for mix in (1.0, 0.0, 0.25)
    ]
    teacher = predict(ema_params, batch['unlabeled_images'])
    np.testing.assert_allclose(results[0]['targets'], teacher)
    np.testing.assert_allclose(results[1]['targets'], teacher[partner])
    np.testing.assert_allclose(results[2]['targets'], 0.25 * teacher + 0.75 * teacher[partner])
    assert results[0]['unlabeled_loss'] == pytest.approx(results[1]['unlabeled_loss'])


def test_mixmatch_keeps_the_larger_share_of_each_image():
    params, ema_params, batch, _ = make_problem()
    rows = NUM_LABELED + 2 * NUM_UNLABELED
    draws = {'mix': np.full(rows, 0.2), 'permutation': np.roll(np.arange(rows), 1)}
    settings = settings_of('mixmatch', {})
    plan = prepare('mixmatch', params, ema_params, {}, batch, draws, num_classes=3, settings=settings)
    images = [batch[key].reshape(-1, 9) for key in ('labeled_images', 'unlabeled_images', 'strong_images')]
    everything = np.concatenate(images)
    expected = 0.8 * everything + 0.2 * np.roll(everything, 1, axis=0)
    np.testing.assert_allclose(np.concatenate([plan['labeled_views'], plan['views']]), expected)
    # With λ = 1 the targets are the sharpened guess, twice: squares of the mean, normalised.
    alone = prepare(
        'mixmatch',
        params,
        ema_params,
        {},
        batch,
        draws | {'mix': np.zeros(rows)},
        num_classes=3,
        settings=settings,
    )
    squares = (predict(params, batch['unlabeled_images']) + predict(params, batch['strong_images'])) ** 2
    guess = squares / squares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(alone['targets'], np.concatenate([guess, guess]))
    np.testing.assert_array_equal(alone['labeled_targets'], np.eye(3)[batch['labels']])


def test_metasemi_without_meta_has_no_consistency_term():
    mixup_only, labeled_only = run_step('metasemi_mixup'), run_step('metasemi_labeled')
    supervised_alone = run_step('supervised')
    assert mixup_only['unlabeled_loss'] == labeled_only['unlabeled_loss'] == 0
    assert labeled_only['loss'] == supervised_alone['loss']
    assert mixup_only['loss'] != labeled_only['loss']


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match='no option'):
        run_step('fixmatch', thresold=0.9)
