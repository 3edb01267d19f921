"""The settings of a sweep, from the text of its `--grid`."""

import ast
import itertools
import re
from collections.abc import Sequence
from typing import Any

from metasemi_jax.command.advice import did_you_mean
from metasemi_jax.config.fields import FIELDS, Field
from metasemi_jax.errors import UserError, as_user_error
from metasemi_jax.methods import METHODS

GRIDS = {
    'ablation': 'method.meta=False,True;method.mixup=False,True',
    'methods': f'method.name={",".join(METHODS)}',
}
# Splits at commas outside lists.
_COMMA = re.compile(r',(?![^(\[]*[)\]])')


def parse_grid(text: str) -> dict[str, list[Any]]:
    """The values of each field.

    Args:
      text: 'optimizer.lr=0.03,0.1;method.meta=True' for {'optimizer.lr': [0.03, 0.1], 'method.meta': [True]}.
        The name of one of `GRIDS` stands for its text; lists are written as (100,200). Empty: no field.

    Raises:
      UserError: what is no field or no value of one, or is named twice.
    """
    grid = {}
    parts = [GRIDS.get(part.strip(), part.strip()) for part in text.split(';')]
    for part in ';'.join(parts).split(';'):
        if not part:
            continue
        name, equals, values = (piece.strip() for piece in part.partition('='))
        if not equals:
            raise UserError(f"--grid: '{part}' is neither FIELD=VALUE,VALUE nor {', '.join(GRIDS)}")
        if name == 'seed':
            raise UserError('--grid: seeds are given as --seeds=0,1,2')
        if name not in FIELDS:
            near = did_you_mean(name, FIELDS, '{}')
            raise UserError(f"--grid: unknown config field '{name}'; configs/default.py lists them all{near}")
        if name in grid:
            raise UserError(f'--grid: {name} is named twice')
        grid[name] = [_parse(name, value.strip(), FIELDS[name]) for value in _COMMA.split(values)]
        _refuse_repetition(f'--grid: {name}', grid[name])
    return grid


def settings(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of a grid's values, the first field changing fastest; of an empty grid the one {}."""
    combinations = itertools.product(*reversed(grid.values()))
    return [dict(zip(grid, reversed(values), strict=True)) for values in combinations]


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """Seeds as numbers.

    Raises:
      UserError: none, no whole number, or one twice.
    """
    seeds = [_parse('seed', text.strip(), FIELDS['seed'], flag='--seeds') for text in texts]
    if not seeds:
        raise UserError('--seeds is empty; name them as --seeds=0,1,2')
    _refuse_repetition('--seeds', seeds)
    return seeds


def _parse(name: str, text: str, field: Field, flag: str = '--grid') -> Any:
    if field.optional and text == 'None':
        return None
    kind = f'list of {field.kind.__name__}s' if field.many else field.kind.__name__
    unlike = (ValueError, KeyError, SyntaxError, TypeError)
    with as_user_error(unlike, f"{flag}: {name}='{text}' must be of the type {kind}"):
        if field.many:
            return tuple(ast.literal_eval(text))
        if field.kind is bool:
            return {'true': True, 'false': False}[text.lower()]
        return field.kind(text)


def _refuse_repetition(what: str, values: list[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UserError(f'{what} names {value} twice')
