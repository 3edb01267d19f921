"""`model.init_from`: a run starts from the weights of another run, or from published weights."""

from typing import Any

import jax
import numpy as np

from metasemi_jax.classifier import WEIGHTS, Classifier, load_classifier
from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.models.trained_parts import HEAD
from metasemi_jax.models.vision_transformer import VisionTransformer, resized_positions
from metasemi_jax.pretrained.weights_file import is_weights_file
from metasemi_jax.training.experiment import Experiment
from metasemi_jax.training.published_weights import begin_from_file

SIZES = ('width', 'depth')


def begin_from(experiment: Experiment, source: str) -> tuple[Experiment, str]:
    """`experiment` with trained weights and running statistics instead of drawn ones.

    A file of published weights gives all layers but the last linear one. A run gives the last one too if the
    classes are the same. Images may have another size. Steps, momentum and learning rate start anew; averages
    start from these weights.

    Args:
      experiment: before its first step.
      source: folder of a run, or FOLDER:WEIGHTS with a key of `classifier.WEIGHTS`; 'last' by default. Or a
        `.pth` or `.safetensors` file.

    Returns:
      The experiment, and one line for people: what was taken.

    Raises:
      UserError: no such weights, or they do not fit.
    """
    if is_weights_file(source):
        name, spec = experiment.config.model.name, experiment.input_spec
        state, note = begin_from_file(experiment.state, experiment.model, spec, source, name)
        return experiment._replace(state=state), note
    folder, weights = _parse(source)
    with as_user_error(UserError, lambda error: f'model.init_from={source}: {error}'):
        trained = load_classifier(folder, weights=weights)
    _check_fit(source, trained, experiment)
    same_classes = trained.class_names == experiment.class_names
    state = experiment.state
    variables = jax.device_get(trained.variables)
    if isinstance(experiment.model, VisionTransformer) and not experiment.model.rotary:
        variables = _for_image_size(variables, trained, experiment)
    head = 'its last layer included'
    if not same_classes:
        variables = variables | {'params': variables['params'] | {HEAD: state.params[HEAD]}}
        there, here = len(trained.class_names), len(experiment.class_names)
        head = f'but for the last layer: other classes there ({there}) than here ({here})'
    # A copy each: the step donates both.
    ema = jax.tree.map(np.copy, variables) if state.ema else state.ema
    note = f'model.init_from: {WEIGHTS[weights]} of {folder}, after step {trained.step:,}, {head}'
    return experiment._replace(state=state.replace(**variables, ema=ema)), note


def _parse(source: str) -> tuple[str, str]:
    folder, colon, weights = source.rpartition(':')
    return (folder, weights) if colon and weights in WEIGHTS else (source, 'last')


def _check_fit(source: str, trained: Classifier, experiment: Experiment) -> None:
    def refuse(what: str, advice: str) -> None:
        raise UserError(f'model.init_from={source} does not fit: {what}; {advice}')

    there, here = trained.model, experiment.model
    if type(there) is not type(here):
        name = trained.config.model.name
        refuse(f'its network is {name}', f'add model.name={name}, or name another run')
    for size in SIZES:
        old, new = getattr(there, size, None), getattr(here, size, None)
        if old != new:
            refuse(f'its {size} is {old}, here it is {new}', f'add model.{size}={old}')
    old, new = trained.input_spec.image_shape[-1], experiment.input_spec.image_shape[-1]
    if old != new:
        refuse(f'its images have {old} channels, these have {new}', 'name another run')


def _for_image_size(variables: Any, trained: Classifier, experiment: Experiment) -> Any:
    """A vision transformer's variables with the positions of this run's patches."""
    patch, shapes = experiment.model.patch, [e.input_spec.image_shape for e in (trained, experiment)]
    old, new = ((height // patch, width // patch) for height, width, _ in shapes)
    positions = resized_positions(variables['params']['pos_embed'], old, new)
    return variables | {'params': variables['params'] | {'pos_embed': np.asarray(positions)}}
