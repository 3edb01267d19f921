"""Messages on a command line: what a mistyped argument stands for, and flags instead of names."""

import difflib
import re
from collections.abc import Callable, Iterable

# What messages below the command line call by its name: arguments, the folder of a run, a setting to give.
_ARGUMENT = re.compile(r'(?<![\w./-])((?:coordinator|num_processes|process_id)\b|(?:output|workdir)(?==))')
_FOLDER = re.compile(r'\b(a|another|new|this) workdir\b')
_SETTING = re.compile(r'\b(add|and|larger|smaller|with) ([a-z_]+(?:\.[a-z_]+)*)=(\S?)')


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


def with_flags(message: str, is_field: Callable[[str], bool]) -> str:
    """`message` with --workdir for workdir, and --config.FIELD for each field that it asks for."""

    def flag(found: re.Match[str]) -> str:
        verb, name, value = found.groups()
        # Of 'with a=1 and b=2' the fields are what was given; 'with a=' asks for a value.
        asked = verb in ('add', 'larger', 'smaller') or not value or value in ':;,'
        if not asked or not (name == 'config' or is_field(name)):
            return found[0]
        return f'{verb} --{name}={value}' if name == 'config' else f'{verb} --config.{name}={value}'

    message = _ARGUMENT.sub(lambda found: f'--{found[0]}', message)
    message = message.replace('; config.FIELD=', '; --config.FIELD=')
    return _SETTING.sub(flag, _FOLDER.sub(r'\1 --workdir', message))


def _last(name: str) -> str:
    return name.rpartition('.')[2]
