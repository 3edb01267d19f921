"""A two-layer network with back-propagation by hand, and the meta-gradient, in NumPy alone.

The network is logits = tanh(x @ W1 + b1) @ W2 + b2 of images flattened in C order. Every function is analytic
and takes complex numbers too: the imaginary part of f(a + i·h) / h is f'(a) to rounding for a tiny h, so
derivatives need neither automatic differentiation nor the cancellation of finite differences.
"""

import numpy as np

COMPLEX_STEP = 1e-30
LOSSES = ('ce', 'kl', 'mse', 'mse_sum')


def flatten(images):
    """Images [B, ...] as rows [B, D], in double precision."""
    images = np.asarray(images)
    wide = np.complex128 if np.iscomplexobj(images) else np.float64
    return images.reshape(len(images), -1).astype(wide)


def forward(params, images):
    """Logits [B, K] and the hidden layer [B, H]."""
    hidden = np.tanh(flatten(images) @ params['W1'] + params['b1'])
    return hidden @ params['W2'] + params['b2'], hidden


def log_softmax(logits):
    shifted = logits - logits.real.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits):
    return np.exp(log_softmax(logits))


def predict(params, images):
    """Softmax probabilities [B, K]."""
    return softmax(forward(params, images)[0])


def backward(params, images, hidden, logit_gradient):
    """Gradients of the parameters and of the flattened images from the gradient [B, K] of the logits."""
    before_tanh = (logit_gradient @ params['W2'].T) * (1 - hidden * hidden)
    gradients = {
        'W1': flatten(images).T @ before_tanh,
        'b1': before_tanh.sum(axis=0),
        'W2': hidden.T @ logit_gradient,
        'b2': logit_gradient.sum(axis=0),
    }
    return gradients, before_tanh @ params['W1'].T


def through_softmax(probs, gradient):
    """The gradient of the logits from the gradient of the probabilities."""
    return probs * (gradient - (probs * gradient).sum(axis=1, keepdims=True))


def negative_entropy(targets):
    """Σ q log q of each row, with 0 log 0 = 0."""
    positive = targets.real > 0
    return (targets * np.log(np.where(positive, targets, 1)) * positive).sum(axis=1)


def example_losses(logits, targets, loss):
    """The loss [B] of each row: 'ce', 'kl' (with the targets' entropy), 'mse' (mean over K) or 'mse_sum'."""
    if loss in ('ce', 'kl'):
        cross_entropy = -(targets * log_softmax(logits)).sum(axis=1)
        return cross_entropy + negative_entropy(targets) if loss == 'kl' else cross_entropy
    squares = ((softmax(logits) - targets) ** 2).sum(axis=1)
    return squares / logits.shape[1] if loss == 'mse' else squares


def example_logit_gradients(logits, targets, loss):
    """The logit gradient [B, K] of each row's loss; a row of targets need not sum to 1."""
    probs = softmax(logits)
    if loss in ('ce', 'kl'):
        return probs * targets.sum(axis=1, keepdims=True) - targets
    scale = 2 / logits.shape[1] if loss == 'mse' else 2
    return through_softmax(probs, scale * (probs - targets))


def weighted_loss(params, images, targets, weights, loss, *, reduce):
    """Σ_i weights_i loss_i, or its mean over the rows if reduce is 'mean', and its parameter gradients."""
    logits, hidden = forward(params, images)
    scale = 1 / len(logits) if reduce == 'mean' else 1.0
    value = scale * (weights * example_losses(logits, targets, loss)).sum()
    logit_gradient = scale * weights[:, None] * example_logit_gradients(logits, targets, loss)
    return value, backward(params, images, hidden, logit_gradient)[0]


def combine(first, second, factor):
    """First + factor · second of two parameter dicts."""
    return {name: first[name] + factor * second[name] for name in first}


def one_hot(labels, num_classes):
    return np.eye(num_classes)[np.asarray(labels)]


def labeled_cross_entropy(params, images, labels):
    """Mean cross-entropy of the labeled images and its gradients: the outer loss of the meta-gradient."""
    targets = one_hot(labels, len(params['b2']))
    return weighted_loss(params, images, targets, np.ones(len(targets)), 'ce', reduce='mean')


def directional_derivatives(params, direction, images):
    """J·direction: the derivative [B, K] of the softmax probabilities along a parameter direction."""
    return predict(combine(params, direction, 1j * COMPLEX_STEP), images).imag / COMPLEX_STEP


def meta_gradients(params, images, labels, views, targets, weights, *, loss, lr, at):
    """Gradients of the labeled loss after one inner SGD step with respect to targets and weights.

    The inner step is θ̃ = θ − lr ∇θ Σ_i weights_i loss(f(view_i; θ), targets_i), a sum.

    Args:
        params: θ.
        images: labeled images [B, ...].
        labels: their classes [B].
        views: student's views [n, ...] of the unlabeled images.
        targets: [n, K].
        weights: [n].
        loss: one of `LOSSES`.
        lr: learning rate of the inner step.
        at: 'theta_tilde' gives d L_l(θ̃)/d(targets, weights), 'theta' the same with ∇L_l taken at θ.

    Returns:
        Gradients of the targets [n, K] and of the weights [n].
    """
    targets, weights = np.asarray(targets, np.float64), np.asarray(weights, np.float64)
    if at == 'theta':
        _, direction = labeled_cross_entropy(params, images, labels)
        return cross_derivatives(params, direction, views, targets, weights, loss=loss, lr=lr)
    if at != 'theta_tilde':
        raise ValueError(f'at {at!r} is neither theta nor theta_tilde')

    def outer_loss(stepped_targets, stepped_weights):
        _, gradients = weighted_loss(params, views, stepped_targets, stepped_weights, loss, reduce='sum')
        return labeled_cross_entropy(combine(params, gradients, -lr), images, labels)[0]

    # One inner step and one labeled loss for every entry: nothing is derived but the inner back-propagation.
    by_targets = complex_gradient(lambda stepped: outer_loss(stepped, weights), targets)
    return by_targets, complex_gradient(lambda stepped: outer_loss(targets, stepped), weights)


def complex_gradient(function, array):
    """The gradient of an analytic, real function, one complex step for each entry."""
    result = np.zeros(array.shape)
    for entry in np.ndindex(array.shape):
        stepped = array.astype(np.complex128)
        stepped[entry] += 1j * COMPLEX_STEP
        result[entry] = function(stepped).imag / COMPLEX_STEP
    return result


def cross_derivatives(params, direction, views, targets, weights, *, loss, lr):
    """−lr d/dε ∂L_u/∂(targets, weights) at θ + ε direction, by one complex step in ε."""
    logits, _ = forward(combine(params, direction, 1j * COMPLEX_STEP), views)
    if loss in ('ce', 'kl'):
        by_targets = -log_softmax(logits)  # The entropy's derivative in the targets does not depend on θ.
    else:
        by_targets = -2 * (softmax(logits) - targets) / (logits.shape[1] if loss == 'mse' else 1)
    by_targets = weights[:, None] * by_targets
    by_weights = example_losses(logits, targets, loss)
    return -lr * by_targets.imag / COMPLEX_STEP, -lr * by_weights.imag / COMPLEX_STEP
