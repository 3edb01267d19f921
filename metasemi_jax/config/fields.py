"""Every field of a run's settings: what it may hold, and what groups of them have in common."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from metasemi_jax.data.batches.augment import PAD_MODES
from metasemi_jax.data.batches.rand_augment import VARIANTS
from metasemi_jax.data.sources.tfds_sources import TFDS_DATASETS
from metasemi_jax.ema import EMA_CONVENTIONS
from metasemi_jax.meta_gradient import ESTIMATORS
from metasemi_jax.methods import META_MOVES, METHODS
from metasemi_jax.optimizer import OPTIMIZERS, WEIGHT_DECAY_ON
from metasemi_jax.progress import parse_duration

# Where the data lie and how they are decoded does not change a run, which may move between machines. The
# checkpoints hold what the data are.
LOCATIONS = (
    'data.data_dir',
    'data.manual_dir',
    'data.path',
    'data.split_file',
    'data.memory_budget',
    'data.num_workers',
)
# Fields that may change when a run is resumed.
MAY_DIFFER = (*LOCATIONS, 'on_nonfinite')
# Fields that time_budget sets: shares of total_steps in the recipe, numbers of steps in the run.
BUDGETED = (
    'total_steps',
    'optimizer.warmup_steps',
    'optimizer.milestones',
    'method.rampup_steps',
    'log_every',
    'eval_every',
    'checkpoint_every',
)
# Fields that a recipe may leave open. The options of networks and methods may always be None.
OPEN = (
    'total_steps',
    'batch_size',
    'ema_decay',
    'eval_every',
    'checkpoint_every',
    'undropped_statistics',
    'data.image_size',
    'data.pad',
    'data.pad_mode',
    'method.name',
    'model.name',
    'optimizer.lr',
    'optimizer.warmup_steps',
)
# Fields that a file of published weights decides if they are not given.
OF_WEIGHTS = ('data.mean', 'data.std', 'model.width', 'model.depth')

COSINES = ('cosine', 'cosine_7_16')  # schedules that end at total_steps
# Fields of the data that only some data use: their values where they are not given, and those data.
MEMORY_BUDGET = 8_000_000_000
FILES, PREPARED = ('own_images', 'imagenet2012'), (*TFDS_DATASETS, 'imagenet2012')
USED_BY = {
    'data.path': ('', ('own_images',)),
    'data.image_size': (0, FILES),
    'data.memory_budget': (MEMORY_BUDGET, ('own_images', *TFDS_DATASETS)),
    'data.num_workers': (None, ('own_images', *PREPARED)),
    'data.data_dir': ('', PREPARED),
    'data.manual_dir': ('', PREPARED),
}


class Field(NamedTuple):
    """What one field may hold."""

    kind: type  # of its value, or of each entry of a list; an int serves as a float
    holds: Callable[[Any], bool] = lambda value: True
    must: str = ''  # the rest of 'FIELD=VALUE must ...'
    optional: bool = False  # None is allowed
    many: bool = False  # a list
    absent: Any = None  # its value in runs of versions without the field
    wide: bool = False  # an int beyond int32 is allowed: the devices do not see it


def _more_than_0(kind: type, **options: Any) -> Field:
    return Field(kind, lambda value: value > 0, 'be more than 0', **options)


def _not_negative(kind: type, **options: Any) -> Field:
    return Field(kind, lambda value: 0 <= value < math.inf, 'not be negative', **options)


def _share(**options: Any) -> Field:
    return Field(float, lambda value: 0 <= value < 1, 'be at least 0 and less than 1', **options)


def _one_of(choices: Iterable[str], **options: Any) -> Field:
    names = sorted(choices)
    return Field(str, lambda value: value in names, f'be one of {", ".join(names)}', **options)


FIELDS = {
    # 'auto': training/recipe.py chooses a value for each None when the run starts; then 'chosen'.
    'recipe': _one_of(('', 'auto', 'chosen'), absent=''),
    # NumPy takes larger seeds, but JAX keeps 32 bits of them.
    'seed': Field(int, lambda value: 0 <= value < 2**32, 'be at least 0 and less than 2**32', wide=True),
    'total_steps': _more_than_0(int),
    'time_budget': Field(
        str,
        lambda value: not value or parse_duration(value) is not None,
        'be a time, as 90s, 10m or 1h30m',
        absent='',
    ),
    'batch_size': _more_than_0(int),
    'unlabeled_ratio': _more_than_0(int, absent=1),
    'dtype': _one_of(('auto', 'float32', 'bfloat16')),
    'ema_decay': _share(),
    'ema_convention': _one_of(EMA_CONVENTIONS, absent='mean_teacher'),
    'undropped_statistics': Field(bool, absent=False),
    'data.name': Field(str),
    'data.data_dir': Field(str),
    'data.manual_dir': Field(str),
    'data.path': Field(str),
    'data.image_size': _not_negative(int),
    'data.memory_budget': _more_than_0(int, wide=True),
    'data.num_labels': _not_negative(int),
    'data.num_validation': _not_negative(int),
    'data.include_labeled': Field(bool, absent=False),
    'data.split_file': Field(str),
    'data.num_workers': _not_negative(int, optional=True),
    'data.crop': _one_of(('pad', 'resized')),
    'data.crop_area': Field(float, lambda value: 0 < value <= 1, 'be more than 0 and at most 1', many=True),
    'data.crop_aspect': _more_than_0(float, many=True),
    'data.pad': _not_negative(int),
    'data.pad_mode': _one_of(PAD_MODES, absent='black'),
    'data.flip': Field(bool),
    'data.strong': _one_of((*VARIANTS, 'affine'), absent='google'),
    'data.mean': Field(float, math.isfinite, 'be numbers', many=True),
    'data.std': _more_than_0(float, many=True),
    'model.name': Field(str),
    'model.init_from': Field(str, absent=''),
    'model.width': _more_than_0(int, optional=True),
    'model.depth': _more_than_0(int, optional=True),
    'model.dropout_rate': _share(optional=True),
    'model.trained_blocks': _not_negative(int, optional=True),
    'method.name': Field(
        str,
        lambda value: value in METHODS or '.py:' in value,
        f'be one of {", ".join(METHODS)}, or FILE.py:FUNCTION',
        absent='metasemi',
    ),
    'method.meta': Field(bool, optional=True),
    'method.meta_moves': _one_of(META_MOVES, optional=True),
    'method.meta_lr': _not_negative(float, optional=True),
    'method.inner_lr': _not_negative(float, optional=True),
    'method.second_view': _one_of(('weak', 'strong'), optional=True),
    'method.estimator': _one_of(ESTIMATORS, optional=True),
    'method.epsilon': _more_than_0(float, optional=True),
    'method.at_inner_step': Field(bool, optional=True),
    'method.mixup': Field(bool, optional=True),
    'method.mixup_gamma': _more_than_0(float, optional=True),
    'method.consistency_weight': _not_negative(float, optional=True),
    'method.rampup_steps': _not_negative(int, optional=True),
    'method.rampup_share': _share(optional=True),
    'method.threshold': _share(optional=True),
    'method.temperature': _more_than_0(float, optional=True),
    'method.momentum': _share(optional=True),
    'method.most': Field(float, lambda value: 0 < value <= 1, 'be more than 0 and at most 1', optional=True),
    'method.num_sigma': _more_than_0(float, optional=True),
    'method.fairness_weight': _not_negative(float, optional=True),
    'method.radius': _more_than_0(float, optional=True),
    'method.xi': _not_negative(float, optional=True),
    'method.entropy_weight': _not_negative(float, optional=True),
    'method.batch_norm': _one_of(('joint', 'labeled'), optional=True),
    'optimizer.name': _one_of(OPTIMIZERS, absent='sgd'),
    'optimizer.lr': _not_negative(float),
    'optimizer.body_lr_scale': _not_negative(float, absent=1.0),
    'optimizer.warmup_steps': _not_negative(int),
    'optimizer.schedule': _one_of(('milestones', *COSINES)),
    'optimizer.milestones': _not_negative(int, many=True),
    'optimizer.momentum': _share(),
    'optimizer.nesterov': Field(bool, absent=False),
    'optimizer.weight_decay': _not_negative(float),
    'optimizer.weight_decay_on': _one_of(WEIGHT_DECAY_ON, absent='all'),
    'log_every': _more_than_0(int),
    'eval_every': _more_than_0(int),
    'eval_batch_size': _more_than_0(int),
    'checkpoint_every': _more_than_0(int),
    'steps_per_call': _not_negative(int),
    'on_nonfinite': _one_of(('stop', 'rollback')),
}
# Names before the point: 'data', 'model', ...
GROUPS = {name.partition('.')[0] for name in FIELDS if '.' in name}
