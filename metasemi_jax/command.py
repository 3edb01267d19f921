"""A command line that ends well: whatever is wrong becomes one line on stderr and the exit code 1."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from metasemi_jax.errors import UserError


def run_command(main: Callable[[], None], *, default_config: Path) -> None:
    """Parse the flags, `--config` among them, and call `main`.

    Args:
      main: reads its flags, raises UserError for what the user can mend.
      default_config: for a command line without `--config`.
    """

    def guarded_main(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument '{argv[1]}'; settings are given as --config.FIELD=VALUE")
        # Orbax reports every file it writes at the level of INFO.
        logging.set_verbosity(logging.WARNING)
        try:
            main()
        except UserError as error:
            _fail(str(error))
        except BrokenPipeError:
            # `main.py | head` closed the pipe. Python would complain again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _fail('nobody reads the output any more; the same command continues from the last checkpoint')

    def parse(argv: list[str]) -> list[str]:
        # ml_collections takes field overrides from sys.argv.
        sys.argv = config_first(argv, default_config)
        try:
            return parse_flags(flags.FLAGS, sys.argv)
        except UserError as error:
            _fail(str(error))

    app.run(guarded_main, flags_parser=parse)


def config_first(argv: list[str], default_config: Path) -> list[str]:
    """`argv` with one --config=FILE ahead of all flags, where ml_collections wants it, or the default's."""
    config, rest = f'--config={default_config}', []
    remaining = iter(argv[1:])
    for arg in remaining:
        name, _, value = arg.partition('=')
        if name in ('--config', '-config'):
            config = f'--config={value or next(remaining, "")}'
        else:
            rest.append(arg)
    return [argv[0], config, *rest]


def parse_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parse `argv`, as `config_first` orders it, into `values`; returns what is no flag, the program first.

    Raises:
      UserError: an unknown flag or field, a value of another type, a config file that is missing or fails.
    """
    path = Path(argv[1].removeprefix('--config=').split(':')[0])
    if not path.is_file():
        raise UserError(f'--config={path}: there is no such file; the experiments are in configs/')
    try:
        rest = values(argv)
        values['config'].value.lock()
    except (AttributeError, KeyError) as error:
        raise UserError(
            f'unknown config field {_one_line(error)}; configs/default.py lists them all'
        ) from error
    # A config file is Python, which may fail in any way; whichever it is, its user wants the one line.
    except Exception as error:
        raise UserError(_one_line(error)) from error
    return rest


def _one_line(error: Exception) -> str:
    # ml_collections wraps a KeyError, which quotes its text, in an AttributeError.
    while len(error.args) == 1 and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if len(error.args) == 1 else error).strip()
    # ml_collections puts a whole traceback into some messages; its last line is the error.
    return text.splitlines()[-1] if 'Traceback' in text else ' '.join(text.split())


def _fail(message: str) -> None:
    sys.exit(f'error: {message}')
