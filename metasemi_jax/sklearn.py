"""Semi-supervised learning as a scikit-learn classifier.

from metasemi_jax.sklearn import MetaSemiClassifier

y[100:] = -1  # not labeled
classifier = MetaSemiClassifier(random_state=0).fit(images, y)
classifier.predict(images)
"""

import contextlib
import numbers
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import _safe_indexing, check_array, check_random_state, check_X_y
from sklearn.utils.validation import check_is_fitted, validate_data

from metasemi_jax.data.dataset import Dataset
from metasemi_jax.errors import UserError
from metasemi_jax.fitting.examples import ImageForm, find_form
from metasemi_jax.fitting.fit import fit
from metasemi_jax.fitting.labels import UNLABELED, encode_labels, is_unlabeled
from metasemi_jax.fitting.listener import Listener, Printer
from metasemi_jax.fitting.predict import predict_probs
from metasemi_jax.fitting.save import save_run
from metasemi_jax.fitting.settings import make_config
from metasemi_jax.training.choices import with_image_size

__all__ = ['MetaSemiClassifier']


class MetaSemiClassifier(ClassifierMixin, BaseEstimator):
    """A neural network that learns from few labels and many unlabeled samples.

    Samples are images [N, H, W] or [N, H, W, C] (uint8, integers of 0 to 255, or floats, see `find_form`), or
    features [N, D]. The training step is that of `main.py`. The recipe of docs/recipe.md chooses what is None
    from the samples and the device.

    The strong view of images is a random affine one. Features are standardised; their views are the features
    with normal noise, of the deviation 0.1 for weak and 0.5 for strong views.

    A fit that goes wrong, as when its predictions collapse or flatten, warns with `ConvergenceWarning`.

    Args:
      method: one of `metasemi_jax.METHODS`; None: 'flexmatch' for images, 'metasemi' for features.
      model: a network of `metasemi_jax.models.MODELS`; None: conv_small on CPUs, a larger one on
        accelerators, an MLP for features.
      total_steps: training steps; None: chosen by the recipe.
      batch_size: labeled samples a step.
      flip: whether images may be mirrored left to right: True suits photographs, not digits.
      time_budget: seconds, or '90s', '10m': the fit ends in that time. The number of steps then depends on
        the machine.
      unlabeled_label: the value of `y` that means 'not labeled'; None: every sample is labeled.
      random_state: seeds initialisation, batches, augmentation, mix-up and dropout. Two fits with the same
        integer on one machine give the same network.
      verbose: whether to print a progress line.
      settings: other fields of `configs/default.py`, {'optimizer.lr': 0.03, 'method.temperature': 1.0}.

    Attributes:
      classes_: the classes, sorted [K].
      transduction_: the class of each sample of X [N], then of X_unlabeled: the given label if there is one,
        else the predicted class.
      n_features_in_: numbers that make a sample: D, or H·W·C.
      feature_names_in_: column names, where X was a data frame.
      config_: all settings of the fit, those that were chosen included.
      variables_: the trained weights, {'params': ..., 'batch_stats': ...}.

    References:
      X.-Y. Zhang, T. Xiao, H. Jia, M.-M. Cheng and M.-H. Yang, Semi-Supervised Learning with Meta-Gradient,
      AISTATS 2021.
    """

    def __init__(
        self,
        method: str | None = None,
        *,
        model: str | None = None,
        total_steps: int | None = None,
        batch_size: int | None = None,
        flip: bool = False,
        time_budget: float | str | None = None,
        unlabeled_label: Any = -1,
        random_state: Any = None,
        verbose: bool = False,
        settings: Mapping[str, Any] | None = None,
    ):
        self.method = method
        self.model = model
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.flip = flip
        self.time_budget = time_budget
        self.unlabeled_label = unlabeled_label
        self.random_state = random_state
        self.verbose = verbose
        self.settings = settings

    def fit(self, X: Any, y: Any, X_unlabeled: Any = None) -> 'MetaSemiClassifier':
        """Train a new network.

        Args:
          X: samples, see the class.
          y: the label of each [N], numbers or texts; `unlabeled_label` where there is none.
          X_unlabeled: more samples without labels.

        Raises:
          ValueError: arrays or parameters that cannot be used, or a loss that is no longer a number.
        """
        images = _axes(X) > 2
        examples, y = self._check_training_data(X, y, images=images)
        classes, labels = encode_labels(y, self.unlabeled_label)
        examples, labels = self._with_unlabeled(examples, labels, X_unlabeled, images=images)
        form = find_form(examples)
        with _value_errors():
            config = make_config(self._given(), self.settings)
            if isinstance(form, ImageForm):
                config, _ = with_image_size(config, examples.shape[1:3])
                form = form._replace(size=config.data.image_size)
            else:
                config.data.image_size = 0
            dataset = _dataset(form.convert(examples), labels, classes)
            fitted = fit(config, dataset, Printer() if self.verbose else Listener())
        # Set last: a fit that fails leaves an earlier fit whole.
        self.classes_, self._form, self._input_spec = classes, form, fitted.input_spec
        self.config_, self.variables_ = fitted.config.to_dict(), fitted.variables
        for warned in fitted.warnings:
            # A fit has no checkpoints.
            message = warned.message.replace(', or use the best checkpoint', '')
            warnings.warn(f'at step {warned.step}: {message}', ConvergenceWarning, stacklevel=2)
        self.transduction_ = self.classes_[np.maximum(labels, 0)]
        unlabeled = labels == UNLABELED
        if unlabeled.any():
            probs = self._probs(dataset.train_images[unlabeled])
            self.transduction_[unlabeled] = self.classes_[probs.argmax(axis=1)]
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, float64 [N, K], in the order of `classes_`."""
        check_is_fitted(self, 'variables_')
        images = isinstance(self._form, ImageForm)
        return self._probs(self._form.convert(self._check_examples(X, images=images)))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sample [N]."""
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(axis=1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of samples with a label whose class is predicted; those without are left out.

        Raises:
          ValueError: no sample is labeled.
        """
        labeled = ~is_unlabeled(np.asarray(y), self.unlabeled_label)
        if labeled.all():
            return super().score(X, y, sample_weight)
        if not labeled.any():
            raise ValueError('no sample is labeled, so there is nothing to score')
        weight = None if sample_weight is None else np.asarray(sample_weight)[labeled]
        y = np.asarray(y)[labeled]
        rows = _safe_indexing(X, np.flatnonzero(labeled))
        return super().score(rows, np.array(y.tolist()) if y.dtype == object else y, weight)

    def save(self, folder: Any, X: Any = None, y: Any = None, X_unlabeled: Any = None) -> None:
        """Write the network as the folder of a run: for `metasemi predict`, `export` and `visualize`.

        `metasemi_jax.load_classifier` reads it, too. Its images are uint8, of 0 to 255, as `fit` made them of
        X. To keep a classifier for Python alone, pickle it.

        Args:
          folder: a new folder, or an empty one.
          X, y, X_unlabeled: the arguments of `fit`, which are then kept beside the network. `visualize`
            needs them, and so does `predict` for the run's own images.

        Raises:
          ValueError: a network of features, samples of another form or of other classes than those of `fit`,
            y or X_unlabeled without X, a folder that holds something.
        """
        check_is_fitted(self, 'variables_')
        if not isinstance(self._form, ImageForm):
            raise ValueError('a run is of images, and this network takes features; pickle the classifier')
        images = labels = None
        if X is None and not (y is None and X_unlabeled is None):
            raise ValueError('y and X_unlabeled are kept with X, which is missing')
        if X is not None:
            examples, y = check_X_y(X, y, allow_nd=True, estimator=self)
            classes, labels = encode_labels(y, self.unlabeled_label)
            if not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f'y is of the classes {classes.tolist()}, fit was given {self.classes_.tolist()}'
                )
            examples, labels = self._with_unlabeled(examples, labels, X_unlabeled, images=True)
            images = self._form.convert(examples)
        names = tuple(map(str, self.classes_.tolist()))
        with _value_errors():
            save_run(folder, self.config_, self.variables_, self._input_spec, names, images, labels)

    def _given(self) -> dict[str, Any]:
        """The fields of the config that the parameters give; None leaves a field to the recipe."""
        seed = self.random_state
        if not isinstance(seed, numbers.Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        budget = self.time_budget
        if isinstance(budget, numbers.Real):
            budget = f'{budget:f}s'
        given = {'method.name': self.method, 'model.name': self.model, 'data.flip': self.flip}
        given |= {'total_steps': self.total_steps, 'batch_size': self.batch_size}
        given |= {'seed': seed, 'time_budget': budget}
        # scikit-learn's grid searches give NumPy scalars.
        return {
            name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()
        }

    def _check_training_data(self, X: Any, y: Any, *, images: bool) -> tuple[np.ndarray, np.ndarray]:
        if not images:
            return validate_data(self, X, y)
        X, y = check_X_y(X, y, allow_nd=True, estimator=self)
        self.n_features_in_ = int(np.prod(X.shape[1:]))
        # An earlier fit to a data frame may have set it.
        vars(self).pop('feature_names_in_', None)
        return X, y

    def _with_unlabeled(
        self, examples: np.ndarray, labels: np.ndarray, X_unlabeled: Any, *, images: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """`examples` and `labels` with the samples of `X_unlabeled`, if there are any, behind them."""
        if X_unlabeled is None:
            return examples, labels
        more = self._check_examples(X_unlabeled, images=images)
        if more.shape[1:] != examples.shape[1:]:
            raise ValueError(
                f'the samples of X_unlabeled are of shape {list(more.shape[1:])}, those of X are of '
                f'{list(examples.shape[1:])}'
            )
        unlabeled = np.full(len(more), UNLABELED, np.int32)
        return np.concatenate([examples, more]), np.concatenate([labels, unlabeled])

    def _check_examples(self, X: Any, *, images: bool) -> np.ndarray:
        if images:
            return check_array(X, allow_nd=True, estimator=self, input_name='X')
        return validate_data(self, X, reset=False)

    def _probs(self, examples: np.ndarray) -> np.ndarray:
        return predict_probs(self.config_, self.variables_, self._input_spec, len(self.classes_), examples)


def _axes(examples: Any) -> int:
    """Number of axes of an array, a sparse matrix, a data frame or a list.

    Raises:
      ValueError: a list of arrays of several shapes.
    """
    if hasattr(examples, 'ndim'):
        return examples.ndim
    if isinstance(examples, list | tuple):
        shapes = {getattr(example, 'shape', None) for example in examples}
        if len(shapes) > 1 and None not in shapes:
            first, second = sorted(map(list, shapes))[:2]
            raise ValueError(f'the samples of X are of shapes {first} and {second}; resize them to one shape')
    return np.ndim(np.asarray(examples, object))


@contextlib.contextmanager
def _value_errors() -> Iterator[None]:
    """Raise as a ValueError what a user can mend."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from error


def _dataset(examples: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> Dataset:
    # Ids of one width sort in the order of the samples.
    ids = np.array([f'{i:0{max(6, len(str(len(labels))))}d}' for i in range(len(labels))])
    return Dataset(examples, labels, ids, None, None, tuple(map(str, classes.tolist())))
