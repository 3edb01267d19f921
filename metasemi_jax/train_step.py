"""One MetaSemi step as a pure function of state, batch and key (paper Algorithm 2)."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from metasemi_jax.batch import Batch
from metasemi_jax.losses import cross_entropy, kl_divergence, squared_error
from metasemi_jax.meta_gradient import ESTIMATORS, update_pseudo_labels
from metasemi_jax.metrics import Metrics, mean_of, pseudo_label_metrics
from metasemi_jax.mixup import interpolate, sample_lambda

Array = jax.Array
Params = Any


@flax.struct.dataclass
class TrainState:
    """Everything a step changes; arrays only. `ema` is {} unless EMA weights are kept."""

    step: Array  # int32 scalar, steps done so far
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    ema: Params  # {'params': ..., 'batch_stats': ...}

    @classmethod
    def create(
        cls, variables: dict, tx: optax.GradientTransformation, *, with_ema: bool = False
    ) -> 'TrainState':
        """The state before the first step, from `model.init`'s variables."""
        params, batch_stats = variables['params'], variables.get('batch_stats', {})
        ema = {'params': params, 'batch_stats': batch_stats} if with_ema else {}
        return cls(
            jnp.zeros((), jnp.int32), params, batch_stats, tx.init(params), jax.tree.map(jnp.copy, ema)
        )


def metasemi_grads(
    model: Any,
    params: Params,
    batch_stats: Params,
    batch: Batch,
    *,
    mixup_lambda: Array | None,
    lr: float | Array,
    consistency_weight: float | Array,
    meta_lr: float | Array = 1.0,
    estimator: str | None = 'jvp',
    epsilon: float = 1e-2,
    dropout_key: Array | None = None,
) -> tuple[Params, Params, dict[str, Array]]:
    """Gradients of the MetaSemi loss for one batch; Algorithm 2 up to the SGD step.

    A pure function: all randomness comes in as arguments. The four rows of the paper's ablation:

        labeled only   mixup_lambda=None, estimator=None
        meta only      mixup_lambda=None
        mix-up only    estimator=None: mixes with the model's own predictions, no consistency term
        MetaSemi       both

    Args:
      model: `model.apply(variables, images, train=...)` -> logits, as `create_model` returns it.
      params, batch_stats: its variables.
      batch: the examples; its `unlabeled_labels` are never read here.
      mixup_lambda: λ [B], or None for no mix-up.
      lr: α of the inner step, the optimizer's learning rate in the recipe.
      consistency_weight: w_t.
      meta_lr: β.
      estimator: a key of `ESTIMATORS`, or None for no meta-gradient and no consistency term.
      epsilon: of `finite_difference`; the others ignore it.
      dropout_key: the model's 'dropout' rng. None passes none, which turns dropout off in this package's
        models; other Flax models may insist on one.

    Returns:
      grads: of the structure of `params`.
      new_batch_stats: running statistics after the train-mode passes, in the order of the authors' program:
        mixed (or labeled) images first, then unlabeled ones.
      aux: scalars 'label_loss', 'label_grad_norm', 'classification_loss', 'consistency_loss', 'loss'; [B, K]
        'initial_pseudo' ỹ, 'meta_gradient' ∂L_l/∂ỹ (with the factor lr), 'updated_pseudo' ŷ. Without the
        meta-gradient ŷ = ỹ and the gradient is zero. What the caller leaves unused, XLA does not compute.
    """
    pseudo = _pseudo_labels(
        model, params, batch_stats, batch, lr=lr, meta_lr=meta_lr, estimator=estimator, epsilon=epsilon
    )
    updated_pseudo = pseudo['updated_pseudo']
    classify_key, consistency_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)

    def train_loss(params: Params) -> tuple[Array, tuple[Params, dict[str, Array]]]:
        classification, stats = _classification_loss(
            model, params, batch_stats, batch, updated_pseudo, mixup_lambda, classify_key
        )
        consistency = jnp.zeros_like(classification)
        if estimator is not None:
            logits, stats = _train_logits(model, params, stats, batch.unlabeled_images, consistency_key)
            probs = jax.nn.softmax(logits)
            consistency = jnp.mean(squared_error(probs=probs, targets=updated_pseudo))
        loss = classification + jnp.asarray(consistency_weight, consistency.dtype) * consistency
        losses = {'classification_loss': classification, 'consistency_loss': consistency, 'loss': loss}
        return loss, (stats, losses)

    grads, (new_batch_stats, losses) = jax.grad(train_loss, has_aux=True)(params)
    return grads, new_batch_stats, pseudo | losses


def _pseudo_labels(
    model: Any,
    params: Params,
    batch_stats: Params,
    batch: Batch,
    *,
    lr: float | Array,
    meta_lr: float | Array,
    estimator: str | None,
    epsilon: float,
) -> dict[str, Array]:
    """Steps 1 to 3 of the method, in evaluation mode throughout: no statistic is updated, nothing dropped."""

    def logits_of(params: Params, images: Array) -> Array:
        return model.apply({'params': params, 'batch_stats': batch_stats}, images, train=False)

    def outer_loss(params: Params) -> Array:
        return jnp.mean(cross_entropy(logits=logits_of(params, batch.labeled_images), labels=batch.labels))

    def inner_loss(params: Params, pseudo_labels: Array) -> Array:
        probs = jax.nn.softmax(logits_of(params, batch.unlabeled_images))
        # Summed, not averaged as the paper writes it: so the authors' program computes it.
        return jnp.sum(squared_error(probs=probs, targets=pseudo_labels))

    # The estimators ask for these forward passes again; XLA computes them once.
    label_loss, label_grad = jax.value_and_grad(outer_loss)(params)
    initial = jax.nn.softmax(logits_of(params, batch.unlabeled_images))
    meta_gradient = jnp.zeros_like(initial)
    updated = initial
    if estimator is not None:
        # `exact` needs no ∇L_l: it differentiates through the inner step.
        options = {} if estimator == 'exact' else {'outer_grad': label_grad}
        if estimator == 'finite_difference':
            options['epsilon'] = epsilon
        meta_gradient = ESTIMATORS[estimator](outer_loss, inner_loss, params, initial, lr=lr, **options)
        updated = update_pseudo_labels(initial, meta_gradient, meta_lr=meta_lr)
    return jax.lax.stop_gradient(
        {
            'label_loss': label_loss,
            'label_grad_norm': optax.tree.norm(label_grad),
            'initial_pseudo': initial,
            'meta_gradient': meta_gradient,
            'updated_pseudo': updated,
        }
    )


def _classification_loss(
    model: Any,
    params: Params,
    batch_stats: Params,
    batch: Batch,
    pseudo_labels: Array,
    mixup_lambda: Array | None,
    dropout_key: Array | None,
) -> tuple[Array, Params]:
    """L_cls and the running statistics after its forward pass."""
    if mixup_lambda is None:
        logits, stats = _train_logits(model, params, batch_stats, batch.labeled_images, dropout_key)
        return jnp.mean(cross_entropy(logits=logits, labels=batch.labels)), stats
    # In the precision of the logits: float64 runs would lose it where the images are stored in float32.
    labeled_images = batch.labeled_images.astype(pseudo_labels.dtype)
    unlabeled_images = batch.unlabeled_images.astype(pseudo_labels.dtype)
    images = interpolate(mixup_lambda, labeled_images, unlabeled_images)
    one_hot = jax.nn.one_hot(batch.labels, pseudo_labels.shape[-1], dtype=pseudo_labels.dtype)
    targets = interpolate(mixup_lambda, one_hot, pseudo_labels)
    logits, stats = _train_logits(model, params, batch_stats, images, dropout_key)
    return jnp.mean(kl_divergence(logits=logits, targets=targets)), stats


def _train_logits(
    model: Any, params: Params, batch_stats: Params, images: Array, dropout_key: Array | None
) -> tuple[Array, Params]:
    rngs = None if dropout_key is None else {'dropout': dropout_key}
    variables = {'params': params, 'batch_stats': batch_stats}
    logits, updates = model.apply(variables, images, train=True, mutable=['batch_stats'], rngs=rngs)
    return logits, updates.get('batch_stats', {})


def make_train_step(
    model: Any,
    tx: optax.GradientTransformation,
    *,
    lr_schedule: Callable[[Array], Array],
    consistency_schedule: Callable[[Array], Array],
    meta: bool = True,
    mixup_gamma: float | None = None,
    meta_lr: float = 1.0,
    estimator: str = 'jvp',
    epsilon: float = 1e-2,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """The step of a whole run: (state, batch, key) -> (state, metrics), to be jitted by the caller.

    Args:
      model: as in `metasemi_grads`.
      tx: the optimizer *without* its learning rate, as `optimizer.sgd_momentum` returns it.
      lr_schedule: step -> learning rate, of the inner and the outer step alike.
      consistency_schedule: step -> w_t.
      meta: whether to move the pseudo-labels and train on them (the paper's ablation).
      mixup_gamma: γ of Beta(γ, γ), or None for no mix-up.
      meta_lr, estimator, epsilon: as in `metasemi_grads`.
      ema_decay: of the averaged weights and statistics in `state.ema`; 0 for none.

    Returns:
      The step function. Its metrics are (sum, count) pairs; the key is used up by the one step.
    """

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        mixup_key, dropout_key = jax.random.split(key)
        del key
        if bool(state.ema) != (ema_decay > 0):
            raise ValueError('ema_decay > 0 needs a state made with `with_ema=True`, and only then')
        lr = jnp.asarray(lr_schedule(state.step), float)
        weight = jnp.asarray(consistency_schedule(state.step), float)
        mixup_lambda = None
        if mixup_gamma is not None:
            mixup_lambda = sample_lambda(mixup_key, batch.labels.shape[0], gamma=mixup_gamma)
        grads, batch_stats, aux = metasemi_grads(
            model,
            state.params,
            state.batch_stats,
            batch,
            mixup_lambda=mixup_lambda,
            lr=lr,
            consistency_weight=weight,
            meta_lr=meta_lr,
            estimator=estimator if meta else None,
            epsilon=epsilon,
            dropout_key=dropout_key,
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - lr.astype(p.dtype) * u, state.params, updates)
        ema = update_ema(state.ema, {'params': params, 'batch_stats': batch_stats}, state.step, ema_decay)
        state = TrainState(state.step + 1, params, batch_stats, opt_state, ema)
        return state, _step_metrics(aux, batch, lr, weight, meta=meta, mixup=mixup_gamma is not None)

    return train_step


def update_ema(ema: Params, variables: Params, step: Array, decay: float) -> Params:
    """decay·ema + (1 - decay)·variables, with 1 - 1/(step+1) for `decay` while that is smaller.

    The start of Mean Teacher (Tarvainen and Valpola, 2017): a plain mean of the first weights, so that the
    random initialisation is forgotten at once. Running statistics are averaged like the weights.
    """
    if not ema:
        return ema
    keep = jnp.minimum(decay, 1 - 1 / (step.astype(float) + 1))

    def average(old: Array, new: Array) -> Array:
        return keep.astype(old.dtype) * old + (1 - keep).astype(old.dtype) * new

    return jax.tree.map(average, ema, variables)


def _step_metrics(
    aux: dict[str, Array], batch: Batch, lr: Array, weight: Array, *, meta: bool, mixup: bool
) -> Metrics:
    """What is logged; only what the row of the ablation computes anyway, so that logging costs no pass."""
    metrics = {'loss': mean_of(aux['loss']), 'classification_loss': mean_of(aux['classification_loss'])}
    metrics['lr'] = mean_of(lr)
    if meta or mixup:
        metrics |= pseudo_label_metrics('before', aux['initial_pseudo'], batch.unlabeled_labels)
    if meta:
        for name in ('consistency_loss', 'label_loss', 'label_grad_norm'):
            metrics[name] = mean_of(aux[name])
        metrics['consistency_weight'] = mean_of(weight)
        metrics |= pseudo_label_metrics('after', aux['updated_pseudo'], batch.unlabeled_labels)
        moved = aux['initial_pseudo'] - aux['updated_pseudo']
        metrics['pseudo_label_change'] = mean_of(jnp.sum(jnp.abs(moved), axis=-1))
        clipped = (aux['updated_pseudo'] <= 0) & (aux['initial_pseudo'] > 0)
        metrics['pseudo_label_clipped'] = mean_of(clipped)
    return metrics
