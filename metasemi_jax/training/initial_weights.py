"""A run that begins with the weights of another: `model.init_from`."""

from typing import Any

import jax
import numpy as np

from metasemi_jax.classifier import WEIGHTS, Classifier, load_classifier
from metasemi_jax.errors import UserError
from metasemi_jax.training.experiment import Experiment

HEAD = 'classifier'  # the last linear layer of every network
SIZES = ('width', 'depth')


def begin_from(experiment: Experiment, source: str) -> tuple[Experiment, str]:
    """`experiment` with the weights and running statistics of a trained run in the place of drawn ones.

    The last linear layer is taken where the classes are the same; otherwise it stays as it was drawn. Images
    may have another size. Steps, momentum and learning rate begin anew; averages begin with these weights.

    Args:
      experiment: before its first step.
      source: folder of a run, or FOLDER:WEIGHTS with a key of `classifier.WEIGHTS`; 'last' by default.

    Returns:
      The experiment, and one line for people: what was taken.

    Raises:
      UserError: no such weights, or they do not fit.
    """
    folder, weights = _parse(source)
    try:
        trained = load_classifier(folder, weights=weights)
    except UserError as error:
        raise UserError(f'model.init_from={source}: {error}') from error
    _check_fit(source, trained, experiment)
    same_classes = trained.class_names == experiment.class_names
    state = experiment.state
    drawn = {'params': state.params, 'batch_stats': state.batch_stats}
    taken = jax.tree.map_with_path(
        lambda path, old, new: old if _is_head(path) and not same_classes else new,
        drawn,
        jax.device_get(trained.variables),
    )
    # A copy each: the step donates both.
    ema = jax.tree.map(np.copy, taken) if state.ema else state.ema
    experiment = experiment._replace(state=state.replace(**taken, ema=ema))
    head = (
        'its last layer included'
        if same_classes
        else (
            f'but for the last layer: other classes there ({len(trained.class_names)}) than here '
            f'({len(experiment.class_names)})'
        )
    )
    return experiment, (
        f'model.init_from: {WEIGHTS[weights]} of {folder}, after step {trained.step:,}, {head}'
    )


def _parse(source: str) -> tuple[str, str]:
    folder, colon, weights = source.rpartition(':')
    return (folder, weights) if colon and weights in WEIGHTS else (source, 'last')


def _check_fit(source: str, trained: Classifier, experiment: Experiment) -> None:
    def refuse(what: str, advice: str) -> None:
        raise UserError(f'model.init_from={source} does not fit: {what}; {advice}')

    there, here = trained.model, experiment.model
    if type(there) is not type(here):
        name = trained.config.model.name
        refuse(f'its network is {name}', f'add --config.model.name={name}, or name another run')
    for size in SIZES:
        old, new = getattr(there, size, None), getattr(here, size, None)
        if old != new:
            refuse(f'its {size} is {old}, here it is {new}', f'add --config.model.{size}={old}')
    old, new = trained.input_form.image_shape[-1], experiment.input_form.image_shape[-1]
    if old != new:
        refuse(f'its images have {old} channels, these have {new}', 'name another run')


def _is_head(path: Any) -> bool:
    return any(getattr(key, 'key', None) == HEAD for key in path)
