"""Every method against its derivation in NumPy: three steps in float64, to 1e-10."""

import numpy as np
import pytest

import method_derivations
from metasemi_jax.methods import METHODS, semi_supervised
from metasemi_jax.methods.targets import predictions
from method_steps import close, derived_steps, make_problem, mlp, our_steps

pytestmark = pytest.mark.usefixtures('x64')

# Thresholds near the small network's confidence, so that some rows are masked and some are not.
PLAIN = {
    'supervised': {},
    'pseudo_label': {'threshold': 0.6},
    'pi_model': {},
    'temporal_ensembling': {},
    'mean_teacher': {},
    'vat': {'entropy_weight': 0.0, 'xi': 1e-3},
    'vat_entmin': {'entropy_weight': 0.06, 'xi': 1e-3},
    'ict': {},
    'mixmatch': {},
    'uda': {'threshold': 0.6},
    'fixmatch': {'threshold': 0.6},
    'fixmatch_labeled': {'threshold': 0.6, 'batch_norm': 'labeled'},
    'flexmatch': {'threshold': 0.6},
    'freematch': {'fairness_weight': 0.3, 'momentum': 0.5},
    'freematch_clipped': {'momentum': 0.5, 'most': 0.4, 'fairness_weight': 0.0},
    'softmatch': {'momentum': 0.5},
    'metasemi': {'rampup_steps': 2},
    'metasemi_meta': {'mixup': False, 'rampup_steps': 2},
    'metasemi_mixup': {'meta': False},
    'metasemi_labeled': {'meta': False, 'mixup': False},
}
MOVES = {
    'θ': {'meta_moves': 'both'},
    'θ̃': {'meta_moves': 'both', 'at_inner_step': True},
    'exact': {'meta_moves': 'both', 'estimator': 'exact'},
}
WITH_META = {
    f'{name}_{move}': PLAIN[name] | {'meta': True} | options
    for name in ('fixmatch', 'uda', 'softmatch', 'mixmatch', 'mean_teacher', 'metasemi')
    for move, options in MOVES.items()
    if move != 'θ' or name in ('fixmatch', 'mean_teacher')
} | {
    f'fixmatch_{moves}': PLAIN['fixmatch'] | {'meta': True, 'at_inner_step': True, 'meta_moves': moves}
    for moves in ('labels', 'weights')
} | {
    f'{name}_θ̃': PLAIN[name] | {'meta': True} | MOVES['θ̃']
    for name in (
        'pseudo_label', 'pi_model', 'temporal_ensembling', 'vat', 'ict', 'flexmatch', 'freematch',
    )
}  # fmt: skip
VARIANTS = PLAIN | WITH_META


def method_of(variant):
    return variant if variant in METHODS else variant.rsplit('_', 1)[0]


@pytest.mark.parametrize('variant', VARIANTS)
def test_three_steps_equal_the_derivation(variant):
    name, options = method_of(variant), VARIANTS[variant]
    params, batches = make_problem()
    ours = our_steps(name, options, batches, params)
    theirs = derived_steps(
        method_derivations, name, options | _exact_is_at_theta_tilde(options), batches, params
    )
    seen = []
    for our, their in zip(ours, theirs, strict=True):
        for field in ('loss', 'labeled_loss', 'unlabeled_loss'):
            close(our[field], their[field], err_msg=field)
        close(our['logged_loss'], their['loss'], rtol=1e-6)
        for field in ('grads', 'params', 'ema', 'state'):
            assert our[field].keys() == their[field].keys()
            for key, value in our[field].items():
                close(value, their[field][key], err_msg=f'{field} {key}')
        if our['targets'] is not None:
            close(our['targets'], their['targets'], err_msg='targets')
        if our['weights'] is not None:
            close(our['weights'], their['weights'], err_msg='weights')
            seen += list(np.asarray(our['weights']))
    if variant in ('pseudo_label', 'uda', 'fixmatch', 'flexmatch', 'freematch', 'softmatch'):
        # The masks and weights are put to the test.
        assert len(np.unique(np.round(seen, 6))) > 1


def _exact_is_at_theta_tilde(options):
    return {'at_inner_step': True} if options.get('estimator') == 'exact' else {}


def test_every_method_is_here():
    assert {method_of(variant) for variant in PLAIN} == {*METHODS}
    # All that have targets can move them.
    assert {method_of(variant) for variant in WITH_META} == {*METHODS} - {'supervised'}


def test_an_image_that_is_twice_in_a_batch_is_averaged_once():
    """A pool that is smaller than the batch: the averages stay averages, and targets sum to 1."""
    params, batches = make_problem()
    for batch in batches:
        batch['unlabeled_ids'] = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    steps = list(our_steps('temporal_ensembling', {}, batches, params))
    for number, step in enumerate(steps, start=1):
        assert step['state']['count'].tolist() == [number] * 4 + [0] * 4
        close(np.sum(step['state']['ensemble'][:4], axis=-1), 1 - 0.6**number)
    close(np.sum(steps[-1]['targets'], axis=-1), 1)


def test_a_joint_pass_has_its_own_predictions():
    with pytest.raises(ValueError, match="predict='teacher' needs a pass of its own"):
        semi_supervised(
            mlp(), targets=predictions, predict='teacher', batch_norm='joint', second_view='strong'
        )


def test_vat_without_a_trial_step_takes_the_limit():
    params, batches = make_problem()
    options = {'entropy_weight': 0.0, 'consistency_weight': 1.0, 'rampup_share': 0.0}
    limit, near = (list(our_steps('vat', options | {'xi': xi}, batches, params)) for xi in (0.0, 1e-6))
    for one, other in zip(limit, near, strict=True):
        np.testing.assert_allclose(one['loss'], other['loss'], rtol=1e-5)
