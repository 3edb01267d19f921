"""A command line that ends well: whatever is wrong becomes one line on stderr and the exit code 1."""

import ast
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags, logging

from metasemi_jax.errors import UserError

HELP = {'--help', '-help', '-h', '--helpshort', '--helpfull'}


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
      argv: as `sys.argv`.
      default_config: for a command line without `--config`; None for a command that has no such flag.
      values: the flags, defined by the caller.
      argument: what the one argument that is no flag names, which is then passed to `main`; None for none.
      many: any number of such arguments is passed, none included.
    """
    if HELP & {*argv}:
        print(f'{sys.modules["__main__"].__doc__}\n{values.main_module_help()}')
        return
    # Orbax reports every file it writes at the level of INFO, and as ERROR, with a page each, what it also
    # raises.
    logging.set_verbosity(logging.FATAL)
    try:
        if default_config is None:
            given = parse_flags(values, argv)
        else:
            given = parse_config_flags(values, config_first(argv, default_config))
        main(*(given if many else _one_or_none(given, argument, with_config=default_config is not None)))
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        # `main.py | head` closed the pipe. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail('nobody reads the output any more; start the same command again, a run goes on where it was')
    # A folder in the place of a file, a file of other bytes, a name too long, no permission, no room.
    except (OSError, UnicodeError) as error:
        _fail(_one_line(error))
    except KeyboardInterrupt:
        print('interrupted; nothing that was saved is lost', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        # JAX's own class, which is not imported for the sake of a mistyped flag.
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        _fail(
            f'the device has not enough memory ({_one_line(error)[:200]}); use a smaller batch_size or model'
        )


def config_first(argv: list[str], default_config: Path) -> list[str]:
    """`argv` with one --config=FILE ahead of all flags, where ml_collections wants it, or the default's.

    A `--config.method.name=NAME` goes to the file's `get_config` too, where that takes a method: the recipe
    is then that method's.
    """
    config, method, rest = str(default_config), '', []
    remaining = iter(argv[1:])
    for arg in remaining:
        name, _, value = arg.partition('=')
        if name in ('--config', '-config'):
            config = value or next(remaining, '')
            continue
        rest.append(arg)
        if name in ('--config.method.name', '-config.method.name'):
            if not value:
                rest += [value] if (value := next(remaining, '')) else []
            method = value
    if method and ':' not in config and _takes_method(Path(config)):
        config += f':{method}'
    return [argv[0], f'--config={config}', *rest]


def _takes_method(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    # A file that is missing or no Python is reported where it is loaded.
    except (OSError, SyntaxError, ValueError):
        return False
    functions = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == 'get_config'
    ]
    return any(function.args.args for function in functions)


def parse_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parse `argv` into `values`; returns the arguments that are no flags.

    Raises:
      UserError: an unknown flag, a value of another type.
    """
    try:
        return values(argv)[1:]
    except flags.Error as error:
        raise UserError(_one_line(error)) from error


def parse_config_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """`parse_flags` with `--config` among them; `argv` as `config_first` orders it.

    Raises:
      UserError: an unknown flag or field, a value of another type, a config file that is missing or fails.
    """
    path = Path(argv[1].removeprefix('--config=').split(':')[0])
    if not path.is_file():
        raise UserError(
            f'--config={path}: there is no such file (seen from {Path.cwd()}); name an experiment'
        )
    # ml_collections takes the overrides of fields from here.
    sys.argv = argv
    try:
        rest = values(argv)[1:]
        values['config'].value.lock()
    except (AttributeError, KeyError) as error:
        if 'get_config' in str(error):
            raise UserError(f'--config={path} has no function get_config()') from error
        raise UserError(
            f'unknown config field {_one_line(error)}; configs/default.py lists them all'
        ) from error
    # A config file is Python, which may fail in any way; whichever it is, its user wants the one line.
    except Exception as error:
        raise UserError(_one_line(error)) from error
    return rest


def _one_or_none(given: list[str], argument: str | None, *, with_config: bool) -> list[str]:
    wanted = 0 if argument is None else 1
    if len(given) > wanted:
        how = 'settings are given as --config.FIELD=VALUE' if with_config else '--help shows the flags'
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
    return text.splitlines()[-1] if 'Traceback' in text else ' '.join(text.split())


def _fail(message: str) -> None:
    sys.exit(f'error: {message}')
