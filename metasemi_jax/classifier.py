"""A trained classifier, read from its workdir alone, and its predictions for any number of images."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from jax import Array

from metasemi_jax.config.form import completed, flatten
from metasemi_jax.data.batches.views import make_normalize
from metasemi_jax.data.dataset import InputSpec
from metasemi_jax.errors import UserError
from metasemi_jax.training.checkpoint import open_checkpoints
from metasemi_jax.training.damaged import check_readable
from metasemi_jax.training.experiment import build_model, state_shapes
from metasemi_jax.training.restore import best_step, restore_step, saved_shapes
from metasemi_jax.workdir import Workdir
from metasemi_jax.workdir.reading import RESTORE, REWRITE

# Fields that the config must have. Configs of older versions may lack others.
NEEDED = {
    'data.crop',
    'data.image_size',
    'data.name',
    'dtype',
    'ema_decay',
    'eval_batch_size',
    'model.name',
    'optimizer.momentum',
    'optimizer.weight_decay',
    'total_steps',
}
WEIGHTS = {
    'last': 'weights of the last checkpoint',
    'best': 'weights of the best checkpoint',
    'ema': 'EMA weights of the last checkpoint',
    'best_ema': 'EMA weights of the best checkpoint',
    'reported': 'last or ema, whichever results.json calls reported_weights',
}


class Classifier(NamedTuple):
    """The network of a run with its weights, without its data."""

    model: Any  # model.apply(variables, normalised images [B, H, W, C], train=False) -> logits [B, K]
    variables: dict  # {'params': ..., 'batch_stats': ...}
    class_names: tuple[str, ...]  # K, in the order of the outputs
    input_spec: InputSpec  # image_shape [H, W, C], mean, std
    dtype: jnp.dtype  # the dtype that training computes in on this machine
    weights: str  # of `WEIGHTS`, never 'reported'
    step: int  # steps done when the weights were saved
    config: Any  # the run's ConfigDict
    record: dict[str, Any]  # of the checkpoint: 'data_sha256', 'history', ...
    files: Workdir

    def __repr__(self) -> str:
        # Otherwise Python would print all weights.
        return f'Classifier({self.description})'

    @property
    def description(self) -> str:
        """One line for people: which weights, after how many steps, of which network."""
        total = self.config.total_steps
        # A fit that was saved has no results: it was not evaluated.
        finished = self.files.results.exists() or self.step >= total
        unfinished = '' if finished else ' (the run is not finished)'
        return (
            f'{self.files.path}: {self.config.model.name}, {WEIGHTS[self.weights]}, after step {self.step:,} '
            f'of {total:,}{unfinished}; {len(self.class_names)} classes, '
            f'{"×".join(map(str, self.input_spec.image_shape))} pixels, {self.dtype.name} on '
            f'{jax.default_backend()}'
        )


class Predictions(NamedTuple):
    """Predictions for B images, on the host."""

    classes: np.ndarray  # int32 [B], index of the largest logit
    probs: np.ndarray  # float32 [B, K]
    features: np.ndarray | None = None  # float32 [B, D], input of the last linear layer


def load_classifier(workdir: str | Path, *, weights: str = 'reported') -> Classifier:
    """The network that a run has trained, finished or not, without its data; writes nothing.

    Args:
      workdir: the folder of a run, finished or still training, or one that `torch_import` made.
      weights: a key of `WEIGHTS`. 'reported' is 'last' in a run that is not finished. 'best' is the
        checkpoint that `results.json` calls `best_checkpoint`; 'best_ema' are its averaged weights.

    Raises:
      UserError: no run, no checkpoint, a damaged one, a run without the weights asked for.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights '{weights}' are unknown; choose one of {', '.join(WEIGHTS)}")
    files = Workdir(workdir)
    if not files.config.is_file():
        what = 'holds no run (no config.json)' if files.path.is_dir() else 'does not exist'
        raise UserError(f"{workdir} {what}; name a run's folder, as training printed it")
    config = ml_collections.ConfigDict(completed(files.read_config()))
    if absent := sorted(NEEDED - flatten(config).keys()):
        raise UserError(f"{files.config} lacks '{absent[0]}'; {RESTORE}")
    if weights == 'reported':
        results = files.read_results() or {}
        weights = 'ema' if results.get('reported_weights') == 'ema' else 'last'
    if 'ema' in weights and not config.ema_decay:
        raise UserError(
            f"{files.path} keeps no EMA weights (its ema_decay is 0), so there are no '{weights}' weights; "
            'use last or best'
        )
    if not files.checkpoints.is_dir():
        raise _no_checkpoint(files, 'no')
    check_readable(files.checkpoints)
    with contextlib.closing(open_checkpoints(files.checkpoints, read_only=True)) as manager:
        step = _choose_step(manager, files, weights)
        class_names, form = files.read_class_names(), files.read_input_spec()
        model, dtype = build_model(config, len(class_names))
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            state_shapes(config, model, form.image_shape),
        )
        _check_shapes(files, target.params, saved_shapes(manager, step))
        restored = restore_step(manager, target, step)
    variables = restored.state.ema if 'ema' in weights else restored.state.variables
    return Classifier(
        model, variables, class_names, form, dtype, weights, step, config, restored.record, files
    )


def make_predict(classifier: Classifier) -> Callable[[dict, Array], dict[str, Array]]:
    """(variables, uint8 [B, H, W, C]) -> 'classes' [B], 'probs' [B, K], 'features' [B, D]; to be jitted."""
    normalize = make_normalize(classifier.input_spec)

    def predict(variables: dict, images: Array) -> dict[str, Array]:
        images = normalize(images)
        logits, features = classifier.model.apply(variables, images, train=False, return_features=True)
        # The argmax of the logits, as in `evaluate`: two probabilities may round to the same number.
        classes = jnp.argmax(logits, axis=-1)
        return {'classes': classes, 'probs': jax.nn.softmax(logits), 'features': features}

    return predict


def predict_batches(
    classifier: Classifier,
    batches: Iterable[np.ndarray],
    *,
    batch_size: int,
    with_features: bool = False,
) -> Iterator[Predictions]:
    """Predictions for each of `batches`, in order; one compilation, two batches on the device at most.

    While the device works on a batch the next one is asked for, so an iterator that decodes images in threads
    keeps both busy.

    Args:
      batches: uint8 [n, H, W, C], 1 ≤ n ≤ `batch_size`; not to be changed once they are handed over.
      batch_size: each batch is filled up to it with black images, whose predictions are dropped.
      with_features: whether the features are copied to the host.
    """
    run = compile_predict(classifier, batch_size, with_features=with_features)
    waiting: tuple[int, dict] | None = None
    for images in batches:
        padding = np.zeros((batch_size - len(images), *images.shape[1:]), np.uint8)
        full = np.concatenate([images, padding]) if len(padding) else images
        started = len(images), run(classifier.variables, full)
        if waiting:
            yield _fetch(*waiting)
        waiting = started
    if waiting:
        yield _fetch(*waiting)


def predict_images(
    classifier: Classifier, images: np.ndarray, *, batch_size: int = 0, with_features: bool = False
) -> Predictions:
    """Predictions for all `images`, uint8 [N, H, W, C], at once; `batch_size` 0 is the run's own.

    Raises:
      UserError: images of another shape or dtype.
    """
    shape = classifier.input_spec.image_shape
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise UserError(
            f'the network takes images of uint8 [N, {", ".join(map(str, shape))}], N at least 1, '
            f'not {images.dtype} {list(images.shape)}'
        )
    size = min(batch_size or classifier.config.eval_batch_size, len(images))
    batches = (images[start : start + size] for start in range(0, len(images), size))
    parts = zip(
        *predict_batches(classifier, batches, batch_size=size, with_features=with_features), strict=True
    )
    return Predictions(*(None if part[0] is None else np.concatenate(part) for part in parts))


def compile_predict(
    classifier: Classifier, batch_size: int, *, with_features: bool = False
) -> Callable[[dict, np.ndarray], dict[str, Array]]:
    """`make_predict` compiled for uint8 [batch_size, H, W, C]; the features only where they are wanted."""
    predict = make_predict(classifier)

    def wanted(variables: dict, images: Array) -> dict[str, Array]:
        outputs = predict(variables, images)
        return {name: value for name, value in outputs.items() if with_features or name != 'features'}

    images = jax.ShapeDtypeStruct((batch_size, *classifier.input_spec.image_shape), jnp.uint8)
    return jax.jit(wanted).lower(classifier.variables, images).compile()


def _fetch(count: int, outputs: dict[str, Array]) -> Predictions:
    return Predictions(**{name: value[:count] for name, value in jax.device_get(outputs).items()})


def _check_shapes(files: Workdir, params: Any, saved: dict[str, tuple[int, ...]]) -> None:
    """Refuse files that describe another network than the checkpoint's.

    Orbax would blame the checkpoint, which is whole.
    """
    for name, leaf in flatten_dict(params, sep='/').items():
        here, there = leaf.shape, saved.get(name)
        if here == there:
            continue
        if there and here[:-1] == there[:-1] and name.startswith('classifier/'):
            raise UserError(
                f'{files.class_names} names {here[-1]} classes, the checkpoints have {there[-1]}; {REWRITE}'
            )
        if there and len(here) == 4 and here[:2] + here[3:] == there[:2] + there[3:]:
            raise UserError(
                f"{files.input_spec} has images of {here[2]} channels, the checkpoints' network takes "
                f'{there[2]}; {REWRITE}'
            )
        raise UserError(
            f"{files.config} describes another network than the checkpoints' ({name} of the shape {here}, "
            f'saved: {there}); {RESTORE}'
        )


def _choose_step(manager: ocp.CheckpointManager, files: Workdir, weights: str) -> int:
    if manager.latest_step() is None:
        raise _no_checkpoint(files, 'no')
    if not weights.startswith('best'):
        return manager.latest_step()
    step = best_step(manager)
    if step is None:
        raise _no_checkpoint(files, 'no evaluated')
    return step


def _no_checkpoint(files: Workdir, kind: str) -> UserError:
    return UserError(
        f'{files.path} holds {kind} checkpoint yet; a run writes them in the background while it trains: '
        'wait, or start its command again to go on'
    )
