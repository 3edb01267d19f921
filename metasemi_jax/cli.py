"""A command line that ends well: whatever is wrong becomes one line on stderr and the exit code 1."""

import ast
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags, logging

from metasemi_jax.command import signals
from metasemi_jax.command.advice import advice_on_argument, did_you_mean, with_flags
from metasemi_jax.command.config_file import expand_home, find_config, load_config
from metasemi_jax.command.machine import blame, missing_device, speak_any_encoding
from metasemi_jax.errors import UserError
from metasemi_jax.files import replace_closed_streams
from metasemi_jax.progress import speaking

HELP = {'--help', '-help', '-h', '--helpshort', '--helpfull'}
NUMBERS = {  # Python's words for a text that is no number, and ours
    r'invalid literal for int.*': 'must be a whole number',
    r'could not convert string to float.*': 'must be a number',
}
PATIENCE_S = 60  # seconds that threads of libraries may take to end after a failure


def run_command(
    main: Callable[..., None],
    argv: list[str],
    *,
    default_config: Path | None = None,
    values: flags.FlagValues = flags.FLAGS,
    argument: str | None = None,
    many: bool = False,
) -> None:
    """Parse `argv` and call `main`; exits the program where that fails.

    Args:
      main: raises UserError for what the user can mend.
      argv: the command line, as `sys.argv` holds it.
      default_config: the config of a command line without `--config`; None for a command without that flag.
      values: the flags, defined by the caller.
      argument: description of the one positional argument, which `main` gets; None: there is none.
      many: whether `main` gets any number of positional arguments.
    """
    replace_closed_streams()
    speak_any_encoding()
    argv = _with_home(argv)
    # Orbax logs every file that it writes as INFO, and every error that it raises as a page of ERROR.
    logging.set_verbosity(logging.FATAL)
    try:
        if HELP & {*argv}:
            _print_help(values, argv, default_config)
            return
        if default_config is None:
            given = values(argv)[1:]
        else:
            given = parse_config_flags(values, config_first(argv, default_config))
        arguments = given if many else _one_or_none(given, argument, with_config=default_config is not None)
        with speaking(_spelled):
            main(*arguments)
    except UserError as error:
        # Without a device for JAX, reading a file fails, and the message blames the file.
        _fail(missing_device(error) or str(error))
    except flags.Error as error:
        _fail(_one_line(error))
    except BrokenPipeError:
        # `main.py | head` closed the pipe. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail('nobody reads the output any more; start the same command again, a run goes on where it was')
    # A folder in the place of a file, a file of other bytes, a name too long, no permission, no room.
    except (OSError, UnicodeError) as error:
        _fail(_one_line(error))
    except KeyboardInterrupt:
        # Only in a program that did not `begin` as a command: there `signals` ends it first.
        print(f'SIGINT: {signals.LINE}', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (line := blame(error)):
            signals.end_within(PATIENCE_S)
            raise
        _fail(line)


def config_first(argv: list[str], default_config: Path) -> list[str]:
    """`argv` with one --config=FILE ahead of all flags, where ml_collections wants it, or the default's.

    A `--config.method.name=NAME` goes to the file's `get_config` too, where that takes a method: the recipe
    is then that method's.
    """
    config, method, rest = str(default_config), '', []
    remaining = iter(argv[1:])
    for arg in remaining:
        name, equals, value = arg.partition('=')
        if name in ('--config', '-config'):
            config = value if equals else next(remaining, '')
            continue
        rest.append(arg)
        if name in ('--config.method.name', '-config.method.name'):
            if not equals:
                rest += [value] if (value := next(remaining, '')) else []
            method = value
    if method and ':' not in config and _takes_method(config):
        config += f':{method}'
    return [argv[0], f'--config={config}', *rest]


def _takes_method(config: str) -> bool:
    try:
        tree = ast.parse(find_config(config).read_bytes())
    # A file that is missing or no Python is reported where it is loaded.
    except (UserError, OSError, SyntaxError, ValueError):
        return False
    functions = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == 'get_config'
    ]
    return any(function.args.args for function in functions)


def parse_config_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parse `argv`, as `config_first` orders it, into `values`; returns the arguments that are no flags.

    Raises:
      UserError: an unknown flag or field, a value of another type, a config file that is missing or fails.
    """
    config = load_config(argv[1].removeprefix('--config='))
    # ml_collections would execute the file, and loses where it failed.
    values['config'].parser = _Loaded(config)
    argv, emptied = _without_none(_joined(argv))
    # ml_collections takes the overrides of fields from here.
    sys.argv = argv
    try:
        rest = values(argv)[1:]
        with config.ignore_type():
            config.update_from_flattened_dict(dict.fromkeys(emptied))
        config.lock()
    except (AttributeError, KeyError) as error:
        # Its own suggestion knows the fields of one group alone.
        field = re.sub(' Did you mean .*', '', _one_line(error))
        unknown = next((name for arg in argv if (name := _field_of(arg)) and name not in _fields()), '')
        advice = f'configs/default.py lists them all{did_you_mean(unknown, _fields())}'
        raise UserError(f'unknown config field {field}; {advice}') from error
    except flags.UnrecognizedFlagError as error:
        raise UserError(_one_line(error) + did_you_mean(error.flagname, _fields())) from error
    # Whatever ml_collections makes of a value.
    except Exception as error:
        raise UserError(_one_line(error)) from error
    expand_home(config)
    sys.argv = [*argv, *(f'--config.{name}=None' for name in emptied)]
    return rest


class _Loaded(flags.ArgumentParser):
    """A parser of `--config` that returns a config whatever the name of the file."""

    def __init__(self, config: Any):
        self._config = config

    def parse(self, argument: str) -> Any:
        return self._config


def _joined(argv: list[str]) -> list[str]:
    """`argv` with `--config.FIELD VALUE` as `--config.FIELD=VALUE`."""
    joined, remaining = [], iter(argv)
    for arg in remaining:
        field = _field_of(arg)
        if field and '=' not in arg and field in _fields() and _fields()[field].kind is not bool:
            arg = f'{arg}={next(remaining, "")}'
        joined.append(arg)
    return joined


def _without_none(argv: list[str]) -> tuple[list[str], list[str]]:
    """`argv` without `--config.FIELD=None`, and the fields that may be None and were named so."""
    emptied = [
        field
        for arg in argv
        if arg.endswith('=None') and (field := _field_of(arg)) in _fields() and _fields()[field].optional
    ]
    return [arg for arg in argv if not (arg.endswith('=None') and _field_of(arg) in emptied)], emptied


def _field_of(arg: str) -> str:
    """'seed' of '--config.seed=3', '' of any other argument."""
    name = arg.partition('=')[0].removeprefix('-').removeprefix('-')
    return name.removeprefix('config.') if arg.startswith('-') and name.startswith('config.') else ''


def _fields() -> Mapping[str, Any]:
    # Imported here: it imports JAX.
    from metasemi_jax.config.fields import FIELDS

    return FIELDS


def _with_home(argv: list[str]) -> list[str]:
    """`argv` with `--flag=~/folder` as the shell would have expanded it in a word of its own."""
    expanded = []
    for arg in argv:
        name, _, value = arg.partition('=')
        if name.startswith('-') and (value == '~' or value.startswith('~/')):
            arg = f'{name}={os.path.expanduser(value)}'
        expanded.append(arg)
    return expanded


def _print_help(values: flags.FlagValues, argv: list[str], default_config: Path | None) -> None:
    text = f'{sys.modules["__main__"].__doc__}\n{values.main_module_help() or values.get_help()}'
    if default_config:
        from metasemi_jax.command.help import config_help

        config = config_first(argv, default_config)[1].removeprefix('--config=')
        text = text.replace("(default: 'None')", f"(default: '{os.path.relpath(default_config)}')", 1)
        text += f'\n\n{config_help(os.path.relpath(config))}'
    print(text)


def _one_or_none(given: list[str], argument: str | None, *, with_config: bool) -> list[str]:
    wanted = 0 if argument is None else 1
    if len(given) > wanted:
        how = advice_on_argument(given[wanted], _fields()) if with_config else '--help shows the flags'
        raise UserError(f"unexpected argument '{given[wanted]}'; {how}")
    if len(given) < wanted:
        raise UserError(f'name one {argument}')
    return given


def _one_line(error: BaseException) -> str:
    # ml_collections wraps a KeyError, which quotes its text, in an AttributeError.
    while len(error.args) == 1 and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if len(error.args) == 1 else error).strip()
    # ml_collections puts a whole traceback into some messages; its last line is the error.
    line = text.splitlines()[-1] if 'Traceback' in text else ' '.join(text.split())
    for pythons, words in NUMBERS.items():
        line = re.sub(pythons, words, line)
    return line


def _fail(message: str) -> None:
    signals.end_within(PATIENCE_S)
    # A name or a value in the message may have several lines.
    sys.exit(f'error: {_spelled(" ".join(message.splitlines()))}')


def _spelled(message: str) -> str:
    """`message` of the package as a command says it."""
    return with_flags(message, lambda name: name in _fields())
