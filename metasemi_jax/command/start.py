"""What a command does before it imports anything that takes time or may fail."""

import sys

from metasemi_jax.command.signals import end_at_once


def begin() -> None:
    """Make signals and a poor machine end this program in one line, from its first import on."""
    end_at_once()
    # Imported now: a signal may come during an import.
    from metasemi_jax.command.machine import check_machine
    from metasemi_jax.errors import UserError

    sys.excepthook = _one_line_hook
    try:
        check_machine()
    except UserError as error:
        sys.exit(f'error: {error}')


def begin_module() -> None:
    """`begin`, where Python was started as `python -m metasemi_jax.NAME`; else nothing.

    The package is imported before the module NAME, so this comes before all imports of a command.
    """
    # Python puts '-m' here for as long as it looks for the module.
    if sys.argv[:1] != ['-m'] or '-m' not in sys.orig_argv:
        return
    name = sys.orig_argv[sys.orig_argv.index('-m') + 1]
    if name.split('.')[0] != __name__.split('.')[0]:
        return
    begin()
    if complaint := _complaint(name):
        sys.exit(f'error: {complaint}')


def _complaint(name: str) -> str:
    """Why `python -m NAME` would do nothing, or ''."""
    from pathlib import Path

    package = Path(__file__).parents[1]
    path = package.parent.joinpath(*name.split('.'))
    if (path / '__main__.py').is_file() or _is_command(path.with_suffix('.py')):
        return ''
    files = [path for path in package.glob('[!_]*.py') if _is_command(path)]
    names = sorted(
        [path.stem for path in files] + [path.parent.name for path in package.glob('*/__main__.py')]
    )
    train = f' (python -m {package.name} train trains)' if 'train' in name else ''
    return f'{name} is no command{train}; python -m {package.name}.NAME runs one of {", ".join(names)}'


def _is_command(path) -> bool:
    return path.is_file() and "\nif __name__ == '__main__':" in path.read_text(encoding='utf-8')


def _one_line_hook(kind, error, traceback) -> None:
    """`sys.excepthook`: one line where the machine is to blame; else, for a fault in the code, the usual."""
    from metasemi_jax.command.machine import blame

    if line := blame(error):
        print(f'error: {line}', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)
