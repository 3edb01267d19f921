"""The types of a method: its inputs, its targets for the unlabeled images, its outcome."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from metasemi_jax.batch import Batch

Params = Any
Aux = dict[str, Array]


class Inputs(NamedTuple):
    """The state before the step, and the batch. Constants: a method differentiates none of it."""

    params: Params
    batch_stats: Params
    ema: Params  # {'params': ..., 'batch_stats': ...} of the teacher, or {}
    state: Any  # the method's own
    step: Array  # int32 scalar
    batch: Batch
    lr: Array  # scalar
    predict: Callable[[Array], Array] | None = None  # images -> logits of the network that makes the targets
    weak_logits: Array | None = None  # [n, K], `predict` of the weak view

    def variables(self, params: Params | None = None) -> dict[str, Params]:
        """The student's variables, with `params` instead of its own."""
        return {'params': self.params if params is None else params, 'batch_stats': self.batch_stats}


class Keys(NamedTuple):
    """Randomness of one step."""

    draw: Array  # mix-up, noise
    dropout: Array | None  # None: no dropout


class Targets(NamedTuple):
    """What the student sees and what it should answer. `semi_supervised` stops all gradients here."""

    labels: Array  # [n, K], soft or one-hot
    weights: Array | None = None  # [n], mask or weight; None: all 1
    images: Array | None = None  # [n, H, W, C]; None: the second view, or the weak one if there is no second
    labeled: tuple[Array, Array] | None = None  # images and soft labels instead of the labeled batch
    state: Any = None  # the method's own after the step; None: as before
    initial: Array | None = None  # [n, K], before they were moved or selected; None: `labels`
    aux: Aux | None = None  # scalars to log

    def add_aux(self, **scalars: Array) -> 'Targets':
        """These targets with more scalars to log."""
        return self._replace(aux=(self.aux or {}) | scalars)

    def student_images(self, batch: Batch) -> Array:
        """What the student sees: the targets' own images, else the second view, else the weak one."""
        if self.images is not None:
            return self.images
        return batch.unlabeled_images if batch.strong_images is None else batch.strong_images


class Outcome(NamedTuple):
    """Results of a loss besides its value."""

    batch_stats: Params
    state: Any
    aux: Aux  # scalars by name, and [n, K] 'initial', 'labels' and [n] 'weights' where there are targets


class Method(NamedTuple):
    """A semi-supervised method: a loss function with a state, and what it needs of the data."""

    loss: Callable[[Params, Inputs, Keys], tuple[Array, Outcome]]
    init: Callable[[int, int], Any]  # (number of classes, of unlabeled images) -> the method's own state
    second_view: str | None = None  # 'weak' or 'strong': what `batch.strong_images` holds; None: nothing
    unlabeled: bool = True  # whether it uses unlabeled images
    teacher: bool = False  # whether it needs `ema`
