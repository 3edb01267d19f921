"""`metasemi COMMAND`, or `python -m metasemi_jax COMMAND`: each command of the package by its name."""

import runpy
import sys

from metasemi_jax.command import signals
from metasemi_jax.command.start import begin

# Name -> the module that `python -m` would run, and what it does.
COMMANDS = {
    'train': ('metasemi_jax.command.train', 'train a network in the folder of a run'),
    'predict': ('metasemi_jax.predict', 'what a run predicts for images, as a CSV file'),
    'export': ('metasemi_jax.export', "a run's network as one file, for programs without this package"),
    'visualize': ('metasemi_jax.visualize', 'curves, mistakes, calibration and an HTML page of a run'),
    'sweep': ('metasemi_jax.sweep', 'train over seeds and values of fields'),
    'plan': (
        'metasemi_jax.plan',
        'whether a config fits a TPU or GPU, and how long it takes there',
    ),
    'report': ('metasemi_jax.report', 'tables and a picture of many runs'),
    'torch-import': ('metasemi_jax.torch_import', "a run from the authors' PyTorch checkpoint"),
}
HELP = ('--help', '-help', '-h', 'help')


def main() -> None:
    """The command `metasemi`; `sys.argv[1]` names one of `COMMANDS`, which gets the rest."""
    # Ahead of all imports that take time: a signal may come meanwhile.
    if not signals.watching():
        begin()
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name in HELP:
        print(_help())
        return
    if name == '--version':
        from importlib.metadata import version

        print(version('metasemi_jax'))
        return
    if name not in COMMANDS:
        sys.exit(f'error: {_complaint(name)}')
    del sys.argv[1]
    # Run the module as `python -m` does: its child processes find the same main module.
    runpy.run_module(COMMANDS[name][0], run_name='__main__', alter_sys=True)


def _help() -> str:
    commands = '\n'.join(f'  {name:<14}{what}' for name, (_, what) in COMMANDS.items())
    return (
        'Semi-supervised image classification: a few labels, many images.\n\n'
        f'usage: metasemi COMMAND [--FLAG=VALUE ...]\n\n{commands}\n\n'
        '`metasemi COMMAND --help` shows its flags. A first run, on a laptop in a minute:\n\n'
        '  metasemi train --workdir=runs/digits\n'
        '  metasemi visualize runs/digits\n\n'
        'From Python, with arrays: metasemi_jax.MetaSemiClassifier (scikit-learn).'
    )


def _complaint(name: str) -> str:
    known = f'metasemi COMMAND runs one of {", ".join(COMMANDS)}'
    if not name or name.startswith('-'):
        return f'name a command; {known}'
    from metasemi_jax.command.advice import did_you_mean

    return f"unknown command '{name}'{did_you_mean(name, COMMANDS, form='metasemi {}') or f'; {known}'}"


if __name__ == '__main__':
    main()
