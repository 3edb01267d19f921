"""The semi-supervised methods in NumPy, derived anew from their definitions, to test the package against.

Nothing of the package is imported. The network is that of mlp_by_hand.py, all arithmetic is float64, and the
gradients are back-propagated by hand. `prepare` gives what a step holds constant (the student's views, the
targets, the weights, the new state), `loss_and_grads` the losses and gradients for that, `step` both.

A batch is a dict of labeled_images [B, ...], labels [B], unlabeled_images [n, ...] (weak views, w),
strong_images [n, ...] (second views, s) and unlabeled_ids [n]. The ids of one batch are distinct. Random
numbers come in `draws`:

    vat       noise [n, ...]: standard normal, the power iteration's start
    ict       mix, a number or [n]: λ as it is used; permutation [n]: row i is mixed with row permutation[i]
    mixmatch  mix [B + 2n]: λ before max(λ, 1 − λ); permutation [B + 2n], both over the rows of (x, w, s)
    metasemi  mix [B]: λ, the share of the labeled image

States (`initial_state` has the start values):

    temporal_ensembling  ensemble [N, K], count [N]
    flexmatch            last_class [N], −1 if undecided
    freematch            threshold (), class_probs [K], histogram [K]
    softmatch            mean (), variance (), class_probs [K], which is zero before the first batch
"""

import numpy as np

from mlp_by_hand import (
    backward,
    directional_derivatives,
    flatten,
    forward,
    labeled_cross_entropy,
    log_softmax,
    meta_gradients,
    one_hot,
    predict,
    softmax,
    through_softmax,
    weighted_loss,
)

DEFAULTS = {
    'supervised': {'weight': 0.0},
    'pseudo_label': {'threshold': 0.95, 'ramp': 'linear', 'ramp_share': 0.4},
    'pi_model': {'weight': 10.0, 'ramp': 'linear', 'ramp_share': 0.4},
    'temporal_ensembling': {'weight': 30.0, 'ramp': 'gauss', 'ramp_share': 80 / 300, 'momentum': 0.6},
    'mean_teacher': {'weight': 50.0, 'ramp': 'linear', 'ramp_share': 0.4},
    'vat': {
        'weight': 0.3,
        'ramp': 'linear',
        'ramp_share': 0.4,
        'radius': 6.0,
        'xi': 1e-6,
        'entmin_weight': 0.0,
    },
    'ict': {'weight': 100.0, 'ramp': 'gauss', 'ramp_share': 0.25},
    'mixmatch': {'weight': 75.0, 'ramp': 'linear', 'ramp_share': 1 / 64, 'temperature': 0.5},
    'uda': {'threshold': 0.8, 'temperature': 0.4},
    'fixmatch': {'threshold': 0.95},
    'flexmatch': {'threshold': 0.95},
    'freematch': {'momentum': 0.999, 'clip': None, 'saf_weight': 0.001},
    'softmatch': {'momentum': 0.999, 'n_sigma': 2.0},
    'metasemi': {'ramp': 'linear', 'ramp_steps': 4000, 'meta': True, 'mixup': True},
}
COMMON = {
    'weight': 1.0,
    'ramp': 'constant',
    'ramp_share': 1.0,
    'ramp_steps': None,
    'meta': False,
    'meta_of': 'labels',
    'meta_at': 'theta',
    'meta_lr': 1.0,
}


def step(method, params, ema_params, state, batch, draws, *, step, total_steps, num_classes, options):
    """One training step's losses, gradients and new state.

    Args:
        method: a name in `METHODS`.
        params: {'W1' [D, H], 'b1' [H], 'W2' [H, K], 'b2' [K]}.
        ema_params: the same of the averaged teacher, before this step's update.
        state: the method's state, from `initial_state` or the previous step.
        batch: see the module's docstring.
        draws: see the module's docstring.
        step: index of the step, from 0.
        total_steps: steps of the whole run.
        num_classes: K.
        options: deviations from `DEFAULTS`; `lr` is required with meta.

    Returns:
        loss (labeled + weight · unlabeled + extra terms), labeled_loss, unlabeled_loss (unweighted, without
        the extra terms), grads, state, targets [n, K] and weights [n] of the unlabeled images; mixmatch has
        2n of these, the weak views' first.
    """
    settings = settings_of(method, options)
    params, ema_params = ({k: np.asarray(v, np.float64) for k, v in p.items()} for p in (params, ema_params))
    plan = prepare(
        method, params, ema_params, state, batch, draws, num_classes=num_classes, settings=settings
    )
    weight = unlabeled_weight(settings, step, total_steps)
    result = loss_and_grads(params, plan, weight=weight, settings=settings)
    return result | {key: plan[key] for key in ('state', 'targets', 'weights')}


def settings_of(method, options):
    """A method's defaults with deviations."""
    settings = COMMON | DEFAULTS[method]
    unknown = set(options) - set(settings) - {'lr'}
    if unknown:
        raise ValueError(f'{method} has no option {sorted(unknown)}')
    return settings | options


def unlabeled_weight(settings, step, total_steps):
    """The weight of the unlabeled loss at a step, from 0."""
    if settings['ramp'] == 'constant':
        return settings['weight']
    end = settings['ramp_steps']
    if end is None:
        end = settings['ramp_share'] * total_steps
    share = min(step / end, 1.0)
    return settings['weight'] * (share if settings['ramp'] == 'linear' else np.exp(-5 * (1 - share) ** 2))


def initial_state(method, *, num_unlabeled, num_classes):
    """The state before the first step."""
    if method == 'temporal_ensembling':
        return {
            'ensemble': np.zeros((num_unlabeled, num_classes)),
            'count': np.zeros(num_unlabeled, np.int64),
        }
    if method == 'flexmatch':
        return {'last_class': np.full(num_unlabeled, -1)}
    uniform = np.full(num_classes, 1 / num_classes)
    if method == 'freematch':
        return {'threshold': np.array(1 / num_classes), 'class_probs': uniform, 'histogram': uniform}
    if method == 'softmatch':
        return {
            'mean': np.array(1 / num_classes),
            'variance': np.array(1.0),
            'class_probs': np.zeros(num_classes),
        }
    return {}


def prepare(method, params, ema_params, state, batch, draws, *, num_classes, settings):
    """All that the gradient of a step holds constant."""
    labels = one_hot(batch['labels'], num_classes)
    plan = {
        'labeled_views': flatten(batch['labeled_images']),
        'labeled_targets': labels,
        'labeled_loss': 'ce',
        'loss': 'ce',
        'state': state,
    }
    images = {
        'labeled': flatten(batch['labeled_images']),
        'weak': flatten(batch['unlabeled_images']),
        'strong': flatten(batch['strong_images']),
        'ids': np.asarray(batch['unlabeled_ids']),
        'one_hot': labels,
    }
    plan |= METHODS[method](params, ema_params, state, images, draws, settings)
    if 'decide' in plan:
        _prepare_hard(params, plan, batch, settings)
    elif settings['meta'] and method != 'metasemi':
        plan['targets'], plan['weights'] = _moved(params, plan, batch, settings)
    return plan


def loss_and_grads(params, plan, *, weight, settings):
    """The losses and the parameter gradients for a plan's constants; parameters may be complex."""
    views, targets = plan['labeled_views'], plan['labeled_targets']
    every = np.ones(len(targets))
    labeled_loss, grads = weighted_loss(params, views, targets, every, plan['labeled_loss'], reduce='mean')
    terms = [weighted_extra(params, plan, settings)] if 'extra' in plan else []
    unlabeled_loss = 0.0
    if 'views' in plan:
        unlabeled = (plan['views'], plan['targets'], plan['weights'], plan['loss'])
        unlabeled_loss, by_unlabeled = weighted_loss(params, *unlabeled, reduce='mean')
        terms.append((weight * unlabeled_loss, _scaled(by_unlabeled, weight)))
    loss = labeled_loss + sum(value for value, _ in terms)
    grads = {name: grads[name] + sum(gradient[name] for _, gradient in terms) for name in grads}
    return {'loss': loss, 'labeled_loss': labeled_loss, 'unlabeled_loss': unlabeled_loss, 'grads': grads}


def weighted_extra(params, plan, settings):
    """A method's further term of the loss, weighted, and its gradients."""
    term, views, factor = plan['extra']
    logits, hidden = forward(params, views)
    value, logit_gradient = term(logits, plan)
    return factor * value, _scaled(backward(params, views, hidden, logit_gradient)[0], factor)


def _scaled(gradients, factor):
    return {name: factor * gradient for name, gradient in gradients.items()}


# The meta-gradient as a transformation of targets and weights.


def _updates(params, plan, batch, settings, targets, weights, loss):
    """The moved targets and the moved weights by one inner step at (targets, weights)."""
    by_targets, by_weights = meta_gradients(
        params,
        batch['labeled_images'],
        batch['labels'],
        plan['views'],
        targets,
        weights,
        loss=loss,
        lr=settings['lr'],
        at=settings['meta_at'],
    )
    moved_targets = project(targets - settings['meta_lr'] * by_targets)
    # A row of zeros is no target, whatever weight would be good for it.
    by_weights = np.where(targets.any(axis=1), by_weights, 0)
    return moved_targets, np.maximum(weights - settings['meta_lr'] * by_weights, 0)


def project(targets):
    """Negative entries become 0, then rows are divided by their sums; a row of zeros stays zero."""
    positive = np.maximum(targets, 0)
    sums = positive.sum(axis=1, keepdims=True)
    return np.divide(positive, sums, out=np.zeros_like(positive), where=sums > 0)


def _moved(params, plan, batch, settings):
    """Soft targets: labels and weights move from the same point."""
    targets, weights = plan['targets'], plan['weights']
    new_targets, new_weights = _updates(params, plan, batch, settings, targets, weights, plan['loss'])
    moves = settings['meta_of']
    return (
        new_targets if moves in ('labels', 'both') else targets,
        new_weights if moves in ('weights', 'both') else weights,
    )


def _prepare_hard(params, plan, batch, settings):
    """Hard targets: the soft labels move first, then the method decides, then the weights move."""
    probs, moves = plan['probs'], settings['meta_of'] if settings['meta'] else ''
    if moves in ('labels', 'both'):
        probs, _ = _updates(params, plan, batch, settings, probs, np.ones(len(probs)), 'ce')
    plan['weights'] = plan['decide'](probs)
    plan['targets'] = one_hot(probs.argmax(axis=1), probs.shape[1])
    plan['mask'] = plan['weights'] > 0
    if moves in ('weights', 'both'):
        targets, weights = plan['targets'], plan['weights']
        plan['weights'] = _updates(params, plan, batch, settings, targets, weights, 'ce')[1]


# The methods: what each makes of the images.


def supervised(params, ema_params, state, images, draws, settings):
    num = len(images['weak'])
    return {'targets': np.zeros((num, len(params['b2']))), 'weights': np.zeros(num)}


def pseudo_label(params, ema_params, state, images, draws, settings):
    probs = predict(params, images['weak'])
    return {
        'views': images['weak'],
        'probs': probs,
        'decide': lambda p: (p.max(axis=1) > settings['threshold']).astype(float),
    }


def pi_model(params, ema_params, state, images, draws, settings):
    return _soft(images['strong'], predict(params, images['weak']), 'mse')


def temporal_ensembling(params, ema_params, state, images, draws, settings):
    keep, ids = settings['momentum'], images['ids']
    ensemble, count = state['ensemble'].copy(), state['count'].copy()
    seen = count[ids] > 0
    correction = np.where(seen, 1 - keep ** count[ids].astype(float), 1.0)
    targets = ensemble[ids] / correction[:, None]
    ensemble[ids] = keep * ensemble[ids] + (1 - keep) * predict(params, images['weak'])
    count[ids] += 1
    plan = _soft(images['weak'], targets, 'mse')
    return plan | {'weights': seen.astype(float), 'state': {'ensemble': ensemble, 'count': count}}


def mean_teacher(params, ema_params, state, images, draws, settings):
    return _soft(images['strong'], predict(ema_params, images['weak']), 'mse')


def vat(params, ema_params, state, images, draws, settings):
    clean = predict(params, images['weak'])
    perturbation = adversarial_perturbation(params, images['weak'], draws['noise'], settings)
    plan = _soft(images['weak'] + perturbation, clean, 'kl')
    if settings['entmin_weight']:
        plan['extra'] = (mean_entropy, images['weak'], settings['entmin_weight'])
    return plan


def adversarial_perturbation(params, images, noise, settings):
    """One power iteration for the direction that moves the prediction most, of length `radius`."""
    clean = predict(params, images)
    nearby = flatten(images) + settings['xi'] * unit_rows(flatten(noise))
    logits, hidden = forward(params, nearby)
    # The gradient of the mean of KL(clean ‖ nearby) with respect to the images.
    _, gradient = backward(params, nearby, hidden, (softmax(logits) - clean) / len(clean))
    return settings['radius'] * unit_rows(gradient)


def unit_rows(rows):
    """Rows over their maximum norm, then over their Euclidean norm, with the original's small constants."""
    rows = rows / (1e-12 + np.abs(rows).max(axis=1, keepdims=True))
    return rows / np.sqrt(1e-6 + (rows**2).sum(axis=1, keepdims=True))


def mean_entropy(logits, plan):
    """Mean entropy of the softmax and its logit gradient."""
    log_probs, probs = log_softmax(logits), softmax(logits)
    value = -(probs * log_probs).sum() / len(logits)
    return value, through_softmax(probs, -(log_probs + 1)) / len(logits)


def ict(params, ema_params, state, images, draws, settings):
    weak, partner = images['weak'], np.asarray(draws['permutation'])
    mix = np.broadcast_to(np.asarray(draws['mix'], np.float64), (len(weak),))[:, None]
    probs = predict(ema_params, weak)
    return _soft(_mixed(mix, weak, weak[partner]), _mixed(mix, probs, probs[partner]), 'mse')


def mixmatch(params, ema_params, state, images, draws, settings):
    mean = (predict(params, images['weak']) + predict(params, images['strong'])) / 2
    guess = mean ** (1 / settings['temperature'])
    guess = guess / guess.sum(axis=1, keepdims=True)
    views = np.concatenate([images['labeled'], images['weak'], images['strong']])
    targets = np.concatenate([images['one_hot'], guess, guess])
    mix, partner = np.asarray(draws['mix'], np.float64)[:, None], np.asarray(draws['permutation'])
    mix = np.maximum(mix, 1 - mix)
    views, targets = _mixed(mix, views, views[partner]), _mixed(mix, targets, targets[partner])
    num_labeled = len(images['labeled'])
    plan = _soft(views[num_labeled:], targets[num_labeled:], 'mse')
    return plan | {'labeled_views': views[:num_labeled], 'labeled_targets': targets[:num_labeled]}


def uda(params, ema_params, state, images, draws, settings):
    logits, _ = forward(params, images['weak'])
    plan = _soft(images['strong'], softmax(logits / settings['temperature']), 'kl')
    return plan | {'weights': (softmax(logits).max(axis=1) >= settings['threshold']).astype(float)}


def fixmatch(params, ema_params, state, images, draws, settings):
    return {
        'views': images['strong'],
        'probs': predict(params, images['weak']),
        'decide': lambda p: (p.max(axis=1) >= settings['threshold']).astype(float),
    }


def flexmatch(params, ema_params, state, images, draws, settings):
    probs = predict(params, images['weak'])
    thresholds = flexible_thresholds(state['last_class'], probs.shape[1], settings['threshold'])
    last_class = state['last_class'].copy()
    confident = probs.max(axis=1) >= settings['threshold']
    last_class[images['ids'][confident]] = probs.argmax(axis=1)[confident]
    return {
        'views': images['strong'],
        'probs': probs,
        'decide': lambda p: (p.max(axis=1) >= thresholds[p.argmax(axis=1)]).astype(float),
        'state': {'last_class': last_class},
    }


def flexible_thresholds(last_class, num_classes, threshold):
    """τ·a/(2 − a) of each class [K]: a is its count over the largest, the undecided images counted too."""
    counts = np.array([(last_class == k).sum() for k in range(num_classes)])
    share = counts / max(counts.max(), (last_class == -1).sum())
    return threshold * share / (2 - share)


def freematch(params, ema_params, state, images, draws, settings):
    probs, keep = predict(params, images['weak']), settings['momentum']
    threshold = keep * state['threshold'] + (1 - keep) * probs.max(axis=1).mean()
    if settings['clip'] is not None:
        threshold = np.clip(threshold, 0, settings['clip'])
    class_probs = keep * state['class_probs'] + (1 - keep) * probs.mean(axis=0)
    histogram = keep * state['histogram'] + (1 - keep) * _class_shares(probs)
    thresholds = threshold * class_probs / class_probs.max()
    return {
        'views': images['strong'],
        'probs': probs,
        'decide': lambda p: (p.max(axis=1) >= thresholds[p.argmax(axis=1)]).astype(float),
        'state': {'threshold': np.asarray(threshold), 'class_probs': class_probs, 'histogram': histogram},
        'extra': (self_adaptive_fairness, images['strong'], settings['saf_weight']),
    }


def _class_shares(probs):
    return np.bincount(probs.argmax(axis=1), minlength=probs.shape[1]) / len(probs)


def _inverse(values):
    """1 / values, and 0 for 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values != 0)


def self_adaptive_fairness(logits, plan):
    """Σ_k a_k log b_k over the masked rows, and its logit gradient.

    a is the running mean of the weak probabilities over the running histogram, b the mean of the strong
    probabilities over their histogram, each divided by its sum. The gradient flows through the strong
    probabilities alone.
    """
    state, mask = plan['state'], plan['mask']
    gradient = np.zeros_like(logits)
    if not mask.any():
        return 0.0, gradient
    expected = state['class_probs'] * _inverse(state['histogram'])
    expected = expected / expected.sum()
    probs = softmax(logits[mask])
    scale = _inverse(_class_shares(probs))
    scaled = probs.mean(axis=0) * scale
    shares = scaled / scaled.sum()
    by_shares = expected / (shares + 1e-12)
    by_scaled = (by_shares - (by_shares * shares).sum()) / scaled.sum()
    gradient[mask] = through_softmax(probs, by_scaled * scale / len(probs))
    return (expected * np.log(shares + 1e-12)).sum(), gradient


def softmatch(params, ema_params, state, images, draws, settings):
    probs, keep = predict(params, images['weak']), settings['momentum']
    mean_probs = probs.mean(axis=0)
    unseen = not state['class_probs'].any()
    class_probs = mean_probs if unseen else keep * state['class_probs'] + (1 - keep) * mean_probs
    confidence = aligned_to_uniform(probs, class_probs).max(axis=1)
    mean = keep * state['mean'] + (1 - keep) * confidence.mean()
    variance = keep * state['variance'] + (1 - keep) * confidence.var(ddof=1)

    def decide(p):
        confidence = aligned_to_uniform(p, class_probs).max(axis=1)
        return truncated_gaussian(confidence, mean, variance, settings['n_sigma'])

    return {
        'views': images['strong'],
        'probs': probs,
        'decide': decide,
        'state': {'mean': np.asarray(mean), 'variance': np.asarray(variance), 'class_probs': class_probs},
    }


def aligned_to_uniform(probs, class_probs):
    """Probabilities over the running class probabilities, times uniform ones, normalised again."""
    aligned = probs * (1 / probs.shape[1] + 1e-6) / (class_probs + 1e-6)
    sums = aligned.sum(axis=1, keepdims=True)
    return np.divide(aligned, sums, out=np.zeros_like(aligned), where=sums > 0)


def truncated_gaussian(confidence, mean, variance, n_sigma):
    return np.exp(-(np.minimum(confidence - mean, 0) ** 2) / (2 * variance / n_sigma**2))


def metasemi(params, ema_params, state, images, draws, settings):
    weak = images['weak']
    probs = predict(params, weak)
    targets, weights = probs, np.ones(len(weak))
    if settings['meta']:
        labels = images['one_hot'].argmax(axis=1)
        _, direction = labeled_cross_entropy(params, images['labeled'], labels)
        # The inner gradient is zero at targets = probs, so θ̃ = θ and 2·lr·J·g is exact, for the labels; the
        # weights' gradient is zero for the same reason.
        if settings['meta_of'] in ('labels', 'both'):
            by_targets = 2 * settings['lr'] * directional_derivatives(params, direction, weak)
            targets = project(probs - settings['meta_lr'] * by_targets)
    plan = {'targets': targets, 'weights': weights}
    if settings['meta']:
        plan |= {'views': weak, 'loss': 'mse_sum'}
    if settings['mixup']:
        num = len(images['labeled'])
        mix = np.asarray(draws['mix'], np.float64)[:, None]
        plan['labeled_views'] = _mixed(mix, images['labeled'], weak[:num])
        plan['labeled_targets'] = _mixed(mix, images['one_hot'], targets[:num])
        plan['labeled_loss'] = 'kl'
    return plan


def _soft(views, targets, loss):
    return {'views': views, 'targets': targets, 'weights': np.ones(len(targets)), 'loss': loss}


def _mixed(mix, first, second):
    return mix * first + (1 - mix) * second


METHODS = {
    'supervised': supervised,
    'pseudo_label': pseudo_label,
    'pi_model': pi_model,
    'temporal_ensembling': temporal_ensembling,
    'mean_teacher': mean_teacher,
    'vat': vat,
    'ict': ict,
    'mixmatch': mixmatch,
    'uda': uda,
    'fixmatch': fixmatch,
    'flexmatch': flexmatch,
    'freematch': freematch,
    'softmatch': softmatch,
    'metasemi': metasemi,
}
