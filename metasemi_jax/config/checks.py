"""Refuses settings that no run can have."""

from typing import Any

from flax import traverse_util

from metasemi_jax.config.fields import COSINES, FIELDS, GROUPS, OPEN, USED_BY, Field
from metasemi_jax.config.form import flatten
from metasemi_jax.errors import UserError
from metasemi_jax.methods import method_options

MOST_IMAGES = 2**20  # images a step; a typing error would otherwise be found when the memory is full
INT32_MAX = 2**31 - 1
FLOAT32_MIN, FLOAT32_MAX = 2.0**-126, 2.0**128  # beyond, the devices hold 0 and infinity


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
    given = {}
    for name, value in config.items():
        if name not in GROUPS:
            given[name] = value
        elif isinstance(value, dict):
            given |= {f'{name}.{key}': child for key, child in value.items()}
        else:
            raise UserError(f'{name}={value!r} must be a group of fields')
    for name, field in FIELDS.items():
        if name in given and not (may_be_open and _is_open(given, name)):
            _check_field(name, given[name], field)


def check_fields(fields: dict[str, Any]) -> None:
    """Refuse the flat `fields`, some of `FIELDS`, where one holds what it cannot."""
    for name, value in fields.items():
        _check_field(name, value, FIELDS[name])


def _is_open(fields: dict[str, Any], name: str) -> bool:
    return fields.get('recipe') == 'auto' and name in OPEN and fields.get(name) is None


def _check_plain(config: Any) -> None:
    """Refuse what config.json cannot hold, as a config file may set it."""
    nested = config.to_dict() if hasattr(config, 'to_dict') else config
    for path, value in traverse_util.flatten_dict(nested).items():
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            # NumPy's float64 is a float.
            if entry is not None and not isinstance(entry, (bool, int, float, str)):
                what = f'{".".join(map(str, path))}={entry!r}'.splitlines()[0][:80]
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
            f'total_steps={fields["total_steps"]} with optimizer.schedule={schedule}; lower the one or '
            'raise the other'
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
    if field.kind is float and not all(x == 0 or FLOAT32_MIN <= abs(x) < FLOAT32_MAX for x in entries):
        raise UserError(f'{name}={value} must be a number that float32 holds, from 1.2e-38 to 3.4e38, or 0')
