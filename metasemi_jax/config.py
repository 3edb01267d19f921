"""Checks on a run's settings, and their form in `config.json`."""

import json
from typing import Any

from metasemi_jax.errors import UserError
from metasemi_jax.meta_gradient import ESTIMATORS

# Where the data lie does not change a run: it may move between machines.
LOCATIONS = ('data.data_dir', 'data.manual_dir')
DTYPES = ('auto', 'float32', 'bfloat16')
POSITIVE = ('total_steps', 'batch_size', 'log_every', 'eval_every', 'eval_batch_size', 'checkpoint_every')
POSITIVE += ('data.num_labels', 'model.width', 'method.mixup_gamma', 'method.epsilon')
NOT_NEGATIVE = ('seed', 'steps_per_call', 'data.pad', 'method.rampup_steps', 'method.meta_lr')
NOT_NEGATIVE += (
    'method.consistency_weight',
    'optimizer.lr',
    'optimizer.warmup_steps',
    'optimizer.weight_decay',
)


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


def differing_fields(old: Any, new: Any) -> list[str]:
    """'field: old value there, new value here' for each field that differs, other than `LOCATIONS`."""
    there, here = flatten(old), flatten(new)
    return [
        f'{name}: {there.get(name, "absent")} there, {here.get(name, "absent")} here'
        for name in sorted((there.keys() | here.keys()) - {*LOCATIONS})
        if there.get(name, 'absent') != here.get(name, 'absent')
    ]


def check_config(config: Any) -> None:
    """Refuse settings that no run can have; what depends on the data is checked where it is loaded.

    Raises:
      UserError: naming the first bad field, its value and what it may be.
    """
    fields = flatten(config)
    for name in POSITIVE:
        if fields[name] is not None and not fields[name] > 0:
            raise UserError(f'{name}={fields[name]} must be more than 0')
    for name in NOT_NEGATIVE:
        if not fields[name] >= 0:
            raise UserError(f'{name}={fields[name]} must not be negative')
    for name in ('ema_decay', 'optimizer.momentum', 'model.dropout_rate'):
        if not 0 <= (fields[name] or 0) < 1:
            raise UserError(f'{name}={fields[name]} must be at least 0 and less than 1')
    _check_choice('dtype', fields['dtype'], DTYPES)
    _check_choice('method.estimator', fields['method.estimator'], ESTIMATORS)
    if len(fields['data.mean']) != len(fields['data.std']):
        raise UserError('data.mean and data.std must name the same channels; give both, or neither')
    if not all(value > 0 for value in fields['data.std']):
        raise UserError(f'data.std={fields["data.std"]} must be more than 0 in every channel')


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise UserError(f"{name} '{value}' is unknown; choose one of {', '.join(sorted(choices))}")
