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

    app.run(guarded_main, flags_parser=lambda argv: _parse(argv, default_config))


def _parse(argv: list[str], default_config: Path) -> list[str]:
    # ml_collections takes field overrides from sys.argv, and only behind the --config that they change.
    sys.argv = _config_first(argv, default_config)
    path = Path(sys.argv[1].removeprefix('--config=').split(':')[0])
    if not path.is_file():
        _fail(f'--config={path}: there is no such file; the experiments are in configs/')
    try:
        rest = flags.FLAGS(sys.argv)
        flags.FLAGS['config'].value.lock()
    except (AttributeError, KeyError) as error:
        _fail(f'unknown config field {_one_line(error)}; configs/default.py lists them all')
    # A config file is Python, which may fail in any way.
    except Exception as error:
        _fail(_one_line(error))
    return rest


def _config_first(argv: list[str], default_config: Path) -> list[str]:
    config, rest = f'--config={default_config}', []
    remaining = iter(argv[1:])
    for arg in remaining:
        name, _, value = arg.partition('=')
        if name in ('--config', '-config'):
            config = f'--config={value or next(remaining, "")}'
        else:
            rest.append(arg)
    return [argv[0], config, *rest]


def _one_line(error: Exception) -> str:
    # ml_collections wraps a KeyError, which quotes its text, in an AttributeError.
    while len(error.args) == 1 and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = str(error.args[0] if len(error.args) == 1 else error).strip()
    # ml_collections puts a whole traceback into some messages; its last line is the error.
    return text.splitlines()[-1] if 'Traceback' in text else ' '.join(text.split())


def _fail(message: str) -> None:
    sys.exit(f'error: {message}')
