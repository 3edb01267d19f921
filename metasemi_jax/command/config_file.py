"""A config file, found and executed; whatever is wrong with it is said with its line."""

import importlib.util
import os
import traceback
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from metasemi_jax.errors import UserError

# A link in the repository, to the folder beside the package; of an installed package its own.
CONFIGS = Path(__file__).parents[1] / 'configs'
NO_EXPERIMENTS = ('default', 'wide_resnet')
PATHS = ('data.path', 'data.data_dir', 'data.manual_dir', 'data.split_file', 'model.init_from')


def find_config(name: str) -> Path:
    """The file of an experiment: `name`, or the one of that name that came with the package.

    Args:
      name: a path, as 'configs/svhn.py', or a bare name, as 'svhn'.

    Raises:
      UserError: there is none.
    """
    given = Path(name)
    if given.is_file():
        return given
    installed = CONFIGS / (given.name if given.suffix == '.py' else f'{given.name}.py')
    if given.parent in (Path(), Path('configs')) and given.name and installed.is_file():
        return installed
    known = ', '.join(sorted(path.stem for path in CONFIGS.glob('*.py') if path.stem not in NO_EXPERIMENTS))
    raise UserError(
        f'--config={name}: there is no such file (seen from {Path.cwd()}); name an experiment of your own, '
        f'or one of {known}'
    )


def load_config(name: str) -> ConfigDict:
    """What `get_config` of a config file returns.

    Args:
      name: 'FILE', as `find_config` takes it, or 'FILE:ARGUMENT' for get_config(ARGUMENT).

    Raises:
      UserError: no such file, or it fails.
    """
    file, _, argument = name.partition(':')
    file = str(find_config(file))
    spec = importlib.util.spec_from_loader('config_file', SourceFileLoader('config_file', file))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, 'get_config', None)):
            raise UserError(f'--config={file} has no function get_config()')
        config = module.get_config(*([argument] if argument else []))
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(
            f'--config={_place(file, error)} ends the program (sys.exit); return a config'
        ) from error
    # A config file is Python, which may fail in any way; whichever it is, its user wants the one line.
    except Exception as error:
        raise UserError(f'--config={_place(file, error)}: {_what(error)}') from error
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise UserError(f'--config={file}: get_config() returned a {kind}; let it return a ConfigDict')
    return config


def expand_home(config: Any) -> None:
    """Replace a leading ~ in the folders and files that `config` names."""
    for group, _, name in (path.partition('.') for path in PATHS):
        fields = config.get(group)
        if isinstance(fields, ConfigDict) and str(fields.get(name)).startswith('~'):
            fields[name] = os.path.expanduser(fields[name])


def _place(file: str, error: BaseException) -> str:
    """'FILE, line 3', or the file alone."""
    if isinstance(error, SyntaxError) and error.filename:
        return f'{error.filename}, line {error.lineno}'
    # The last line of the user's own: the file, or another that it imports from beside it.
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == Path(file)]
    return f'{file}, line {own[-1].lineno}' if own else file


def _what(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f'invalid syntax: {error.msg}' if error.msg != 'invalid syntax' else error.msg
    while len(error.args) == 1 and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = ' '.join(str(error.args[0] if len(error.args) == 1 else error).split())
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
