"""Flags that several commands have, and their words."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from metasemi_jax.errors import UserError, reason_of
from metasemi_jax.files import check_writable, write_atomically

# absl's help then shows these flags among those of the command that defines them here.
flags.disclaim_key_flags()


def define_config(values: flags.FlagValues, text: str = 'changes one of its fields') -> None:
    """`--config` and `--config.FIELD`; `text`: what the latter does."""
    config_flags.DEFINE_config_file(
        'config', None, f'The experiment; --config.FIELD=VALUE {text}.', flag_values=values
    )


def define_workdir(values: flags.FlagValues, text: str = 'Folder of the run, finished or not.') -> None:
    """`--workdir`; to be read by `required_workdir`."""
    flags.DEFINE_string('workdir', None, text, flag_values=values)


def required_workdir(value: str | None, what: str = 'the folder of a run') -> str:
    """The value of `--workdir`.

    Raises:
      UserError: it was not given; the message asks for `what`.
    """
    if not value:
        raise UserError(f'--workdir is missing; name {what}: --workdir=FOLDER')
    return value


def define_weights(values: flags.FlagValues) -> None:
    """`--weights`, of `classifier.WEIGHTS`."""
    # Imported here: it loads JAX, which takes seconds. `train` has no such flag, and parses its own before.
    from metasemi_jax.classifier import WEIGHTS

    text = '; '.join(f'{name}: {what}' for name, what in WEIGHTS.items())
    flags.DEFINE_enum('weights', 'reported', list(WEIGHTS), text, flag_values=values)


def define_data_location(values: flags.FlagValues) -> None:
    """`--data_path`, `--data_dir` and `--manual_dir`, for commands that look at a run's own images."""
    where = "Where a run's own images have moved to: the folder, .csv or .npz file."
    flags.DEFINE_string('data_path', '', where, flag_values=values)
    flags.DEFINE_string('data_dir', '', "Where a run's TFDS datasets have moved to.", flag_values=values)
    flags.DEFINE_string('manual_dir', '', "Where ImageNet's tar files have moved to.", flag_values=values)


def define_output(values: flags.FlagValues, text: str) -> None:
    """`--output`; its errors are named by `naming_output`."""
    flags.DEFINE_string('output', None, text, flag_values=values)


def check_output_folder(folder: Path, files: Sequence[Path], is_own: Callable[[bytes], bool]) -> None:
    """Refuse, before the work, an `--output` that cannot be written, or holds somebody else's `files`.

    The first of `files`, with bytes that `is_own` knows, identifies the others as the command's own.
    """
    with naming_output(folder, 'folder'):
        check_writable(folder, f'--output={folder}')
        there = [path for path in files if path.exists()]
        if there and not (files[0].is_file() and is_own(files[0].read_bytes())):
            raise UserError(
                f'--output={folder}: {there[0]} was not written by this command; name another folder'
            )


def write_output_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files of `--output`, by their paths below it, in this order; each all or nothing."""
    with naming_output(folder, 'folder'):
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, content)


@contextlib.contextmanager
def naming_output(output: str | os.PathLike, kind: str = 'file') -> Iterator[None]:
    """Make an OSError of writing what `--output` names (a `kind`: 'file' or 'folder') a UserError.

    Raises:
      BrokenPipeError: nobody reads the output any more.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f'--output={output} cannot be written ({reason_of(error)}); name another {kind}'
        ) from error
