"""'Did you mean': the field, flag or file that a mistyped argument stands for."""

import difflib
from collections.abc import Iterable


def similar_fields(name: str, fields: Iterable[str]) -> list[str]:
    """Up to three of `fields` that `name` may stand for, the likeliest first: 'lr' -> ['optimizer.lr']."""
    fields, last = list(fields), _last(name)
    found = [field for field in fields if _last(field) == last]
    by_last = {}
    for field in fields:
        by_last.setdefault(_last(field), []).append(field)
    found += difflib.get_close_matches(name, fields, n=3, cutoff=0.8)
    for close in difflib.get_close_matches(last, by_last, n=3, cutoff=0.7):
        found += by_last[close]
    return list(dict.fromkeys(found))[:3]


def did_you_mean(name: str, fields: Iterable[str], form: str = '--config.{}') -> str:
    """'; did you mean --config.optimizer.lr?', or ''."""
    found = similar_fields(name, fields)
    return f'; did you mean {" or ".join(form.format(field) for field in found)}?' if found else ''


def advice_on_argument(argument: str, fields: Iterable[str]) -> str:
    """What an argument without dashes stands for, in a command with a config."""
    name, equals, value = argument.partition('=')
    if argument.partition(':')[0].endswith('.py'):
        return f'did you mean --config={argument}?'
    if equals and (found := similar_fields(name.removeprefix('config.'), fields)):
        return f'did you mean --config.{found[0]}={value}?'
    if not equals and '/' in argument:
        return f'did you mean --workdir={argument}, or --config.data.path={argument}?'
    return 'settings are given as --config.FIELD=VALUE'


def _last(name: str) -> str:
    return name.rpartition('.')[2]
