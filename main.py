"""Train MetaSemi: `python main.py --config=configs/digits.py --workdir=runs/digits`."""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from metasemi_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    'config',
    str(Path(__file__).parent / 'configs' / 'digits.py'),
    'The experiment; --config.FIELD=VALUE changes one of its fields.',
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, "Folder of the run, made if missing; by default runs/ and the config file's name."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f'error: unexpected argument {argv[1]}; settings are given as --config.FIELD=VALUE')
    # Orbax reports every file it writes at the level of INFO.
    logging.set_verbosity(logging.WARNING)
    # JAX takes seconds to load, and a mistyped flag should not have to wait for it.
    from metasemi_jax.compilation_cache import enable_compilation_cache
    from metasemi_jax.train import train_and_evaluate

    enable_compilation_cache()
    config_name = Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
    try:
        train_and_evaluate(_CONFIG.value, _WORKDIR.value or f'runs/{config_name}')
    except UserError as error:
        sys.exit(f'error: {error}')


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    # A config file is Python and may fail in any way; whichever it is, its user wants the one line.
    except Exception as error:
        reason = ' '.join(str(error).split()).strip('\'"')
        sys.exit(f'error: {reason or type(error).__name__}')


if __name__ == '__main__':
    app.run(main, flags_parser=_parse_flags)
