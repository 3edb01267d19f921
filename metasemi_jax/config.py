"""Checks on a run's settings, and their form in `config.json`."""

import copy
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from metasemi_jax.data.batches.augment import PAD_MODES
from metasemi_jax.data.batches.rand_augment import VARIANTS
from metasemi_jax.data.sources.tfds_sources import TFDS_DATASETS
from metasemi_jax.ema import EMA_CONVENTIONS
from metasemi_jax.errors import UserError
from metasemi_jax.meta_gradient import ESTIMATORS
from metasemi_jax.methods import META_MOVES, METHODS, method_options
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
ON_NONFINITE = ('stop', 'rollback')
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
# 'auto': the recipe (training/recipe.py) chooses a value for each None when the run starts; then 'chosen'.
RECIPE_STATES = ('', 'auto', 'chosen')
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
DTYPES = ('auto', 'float32', 'bfloat16')
MOST_IMAGES = 2**20  # images a step; a typing error would otherwise be found when the memory is full
INT32_MAX = 2**31 - 1
FLOAT32_MIN, FLOAT32_MAX = 2.0**-126, 2.0**128  # beyond, the devices hold 0 and infinity
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


_ABSENT = object()


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


def _is_method(value: str) -> bool:
    return value in METHODS or '.py:' in value


def _share(**options: Any) -> Field:
    return Field(float, lambda value: 0 <= value < 1, 'be at least 0 and less than 1', **options)


def _one_of(choices: Iterable[str], **options: Any) -> Field:
    names = sorted(choices)
    return Field(str, lambda value: value in names, f'be one of {", ".join(names)}', **options)


FIELDS = {
    'recipe': _one_of(RECIPE_STATES, absent=''),
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
    'dtype': _one_of(DTYPES),
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
        str, _is_method, f'be one of {", ".join(METHODS)}, or FILE.py:FUNCTION', absent='metasemi'
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
    'on_nonfinite': _one_of(ON_NONFINITE),
}


def flatten(config: Any) -> dict[str, Any]:
    """A ConfigDict, or its plain dict, as {'data.name': value}, with JSON's types (tuples as lists)."""
    nested = json.loads(json.dumps(config.to_dict() if hasattr(config, 'to_dict') else config))
    flat = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, child in value.items():
                visit(f'{prefix}{key}.', child)
        else:
            flat[prefix[:-1]] = value

    visit('', nested)
    return flat


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """The nested `config` of an older version with the fields that have been added since.

    A field that stood for no one value then stays absent.
    """
    config, there = copy.deepcopy(config), flatten(config)
    for name, field in FIELDS.items():
        if name not in there and (field.optional or field.absent is not None):
            *groups, last = name.split('.')
            group = config
            for part in groups:
                group = group.setdefault(part, {})
            group[last] = field.absent
    return config


def settled(fields: dict[str, Any]) -> dict[str, Any]:
    """The flat `fields` of any version's config.json with what they leave open filled in.

    A field that the version did not have gets the value that it stood for, and a method's option that is
    None gets the method's own, so that two runs of the same settings have the same fields.
    """
    fields = {name: field.absent for name, field in FIELDS.items()} | fields
    try:
        options = method_options(fields['method.name']) if fields['method.name'] is not None else {}
    except UserError:
        # The file of a user's method may be gone; its options stay as they are.
        options = {}
    for option, default in options.items():
        name = f'method.{option}'
        if option != 'total_steps' and fields.get(name) is None:
            fields[name] = default
    # Options that the method does not have, and settings of a part that is switched off, say nothing.
    if options:
        known = {'method.name', *(f'method.{option}' for option in options)}
        meaningless = [name for name in fields if name.startswith('method.') and name not in known]
        if fields['method.name'] == 'metasemi' and not fields['method.mixup']:
            meaningless.append('method.mixup_gamma')
        fields |= dict.fromkeys(meaningless)
    return fields


def differing_fields(old: Any, new: Any) -> list[str]:
    """'field: old value there, new value here' for each field that differs, other than `MAY_DIFFER`.

    Runs of the same time budget have as many steps as their machines did in it.
    """
    there, here = settled(flatten(old)), settled(flatten(new))
    if there['time_budget'] and there['time_budget'] == here['time_budget']:
        there, here = ({**fields, **dict.fromkeys(BUDGETED)} for fields in (there, here))
    return [
        f'{name}: {there.get(name, "absent")} there, {here.get(name, "absent")} here'
        for name in sorted((there.keys() | here.keys()) - {*MAY_DIFFER})
        if there.get(name, 'absent') != here.get(name, 'absent')
    ]


def only_longer(old: Any, new: Any) -> bool:
    """Whether `new` is `old` with more total_steps alone, and so begins with the steps of `old`."""
    there, here = settled(flatten(old)), settled(flatten(new))
    differing = {name for name in there.keys() | here.keys() if there.get(name) != here.get(name)}
    return (
        differing - {*MAY_DIFFER} == {'total_steps'}
        and there['total_steps'] < here['total_steps']
        and here['optimizer.schedule'] not in COSINES
        and not here['time_budget']
        and 'total_steps' not in method_options(here['method.name'])
    )


def agreed_settings(config: Any) -> str:
    """What all processes of a run must have alike, as text: every field but `LOCATIONS`."""
    fields = flatten(config)
    return json.dumps({name: fields[name] for name in sorted(fields.keys() - {*LOCATIONS})})


def check_config(config: Any) -> None:
    """Refuse settings that no run can have; what depends on the data is checked where it is loaded.

    With `recipe='auto'` the fields of `OPEN` may be None.
    """
    _check_plain(config)
    fields = flatten(config)
    unmatched = fields.keys() ^ FIELDS.keys()
    if '.py:' in str(fields.get('method.name')):
        # A user's method may have options of its own; `_check_method` knows them.
        unmatched = {name for name in unmatched if name in FIELDS or not name.startswith('method.')}
    for name in sorted(unmatched):
        what = f"the config has an unknown field '{name}'" if name in fields else f"the config lacks '{name}'"
        raise UserError(f'{what}; configs/default.py lists the fields')
    for name, field in FIELDS.items():
        if not _is_open(fields, name):
            _check_field(name, fields[name], field)
    if len(fields['data.mean']) != len(fields['data.std']):
        raise UserError('data.mean and data.std must name the same channels; give both, or neither')
    _check_batch(fields)
    _check_used(fields)
    _check_optimizer(fields)
    _check_method(fields)
    for name in ('data.crop_area', 'data.crop_aspect'):
        if len(fields[name]) != 2 or fields[name][0] > fields[name][1]:
            raise UserError(f'{name}={fields[name]} must be two numbers, the smaller one first')


def check_saved(config: dict[str, Any], *, may_be_open: bool = False) -> None:
    """Refuse the nested settings of a file of any version where a field holds what it cannot.

    Fields may be missing, or unknown here.

    Args:
      config: nested, as in the file.
      may_be_open: whether with `recipe='auto'` the fields of `OPEN` may be None: a run has chosen them.
    """
    fields = flatten(config)
    for group in {name.split('.')[0] for name in FIELDS if '.' in name}:
        if not isinstance(config.get(group, {}), dict):
            raise UserError(f'{group}={config[group]!r} must be a group of fields')
    for name, field in FIELDS.items():
        value = config
        for part in name.split('.'):
            value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
        if value is not _ABSENT and not (may_be_open and _is_open(fields, name)):
            _check_field(name, fields.get(name, value), field)


def check_fields(fields: dict[str, Any]) -> None:
    """Refuse the flat `fields`, some of `FIELDS`, where one holds what it cannot."""
    for name, value in fields.items():
        _check_field(name, value, FIELDS[name])


def _is_open(fields: dict[str, Any], name: str) -> bool:
    return fields.get('recipe') == 'auto' and name in OPEN and fields.get(name) is None


def _check_plain(config: Any, prefix: str = '') -> None:
    """Refuse what config.json cannot hold, as a config file may set it."""
    for name, value in (config.to_dict() if hasattr(config, 'to_dict') else config).items():
        if isinstance(value, dict):
            _check_plain(value, f'{prefix}{name}.')
            continue
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            # NumPy's float64 is a float.
            if entry is not None and not isinstance(entry, (bool, int, float, str)):
                what = f'{prefix}{name}={entry!r}'.splitlines()[0][:80]
                raise UserError(
                    f'{what} is of the type {type(entry).__name__}; a config holds numbers, texts, True, '
                    'False, None and lists of them'
                )


def _check_batch(fields: dict[str, Any]) -> None:
    """Refuse batches that no machine holds."""
    images = (fields['batch_size'] or 1) * fields['unlabeled_ratio']
    if images > MOST_IMAGES:
        raise UserError(
            f'batch_size={fields["batch_size"]} and unlabeled_ratio={fields["unlabeled_ratio"]} are '
            f'{images:,} unlabeled images a step; at most {MOST_IMAGES:,} are possible'
        )


def _check_used(fields: dict[str, Any]) -> None:
    """Refuse settings that other data use: the user meant those data."""
    data = fields['data.name']
    for name, (default, users) in USED_BY.items():
        if fields[name] not in (default, None) and data not in users:
            advice = 'add config=configs/folder.py' if name == 'data.path' else 'leave it out'
            raise UserError(f'{name}={fields[name]} is not used with data.name={data}; {advice}')


def _check_optimizer(fields: dict[str, Any]) -> None:
    schedule = fields['optimizer.schedule']
    known = None not in (fields['optimizer.warmup_steps'], fields['total_steps'])
    if known and schedule in COSINES and fields['optimizer.warmup_steps'] >= fields['total_steps']:
        raise UserError(
            f'optimizer.warmup_steps={fields["optimizer.warmup_steps"]} must be less than '
            f'total_steps={fields["total_steps"]} with optimizer.schedule={schedule}'
        )
    name = fields['optimizer.name']
    if fields['optimizer.nesterov'] and name != 'sgd':
        raise UserError(
            f'optimizer.name={name} has no Nesterov momentum; add optimizer.nesterov=False, or use sgd'
        )


def _check_method(fields: dict[str, Any]) -> None:
    method = fields['method.name']
    if method is None:
        return  # a recipe's to choose; its config is checked again
    options = method_options(method)
    for name, value in fields.items():
        option = name.removeprefix('method.')
        if option != name and option not in {'name', *options} and value is not None:
            known = ', '.join(sorted({*options} - {'total_steps'})) or 'none'
            raise UserError(f"method.name={method} has no option '{option}'; its options: {known}")


def _check_field(name: str, value: Any, field: Field) -> None:
    if value is None and field.optional:
        return
    entries = value if field.many and isinstance(value, list) else [value]
    kinds = (int, float) if field.kind is float else (field.kind,)
    # JSON has made a list of every tuple; and a bool is an int to Python, but not to the user.
    if isinstance(value, list) != field.many or not all(
        isinstance(entry, kinds) and (isinstance(entry, bool) == (field.kind is bool)) for entry in entries
    ):
        what = f'a list of {field.kind.__name__}s' if field.many else f'of the type {field.kind.__name__}'
        raise UserError(f'{name}={value!r} must be {what}')
    if not all(map(field.holds, entries)):
        raise UserError(f'{name}={value} must {field.must}')
    if field.kind is int and not field.wide and any(abs(entry) > INT32_MAX for entry in entries):
        raise UserError(f'{name}={value} must be less than 2**31')
    if field.kind is float and not all(_in_float32(entry) for entry in entries):
        raise UserError(f'{name}={value} must be a number that float32 holds, from 1.2e-38 to 3.4e38, or 0')


def _in_float32(value: float) -> bool:
    return value == 0 or FLOAT32_MIN <= abs(value) < FLOAT32_MAX
