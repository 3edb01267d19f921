"""The experiments that come with the package, found from any folder."""

from pathlib import Path

from metasemi_jax.errors import UserError

# A link in the repository, to the folder beside the package; of an installed package its own.
CONFIGS = Path(__file__).parents[1] / 'configs'
NO_EXPERIMENTS = ('default', 'wide_resnet')


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
