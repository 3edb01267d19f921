"""Flags that several commands have, and their words."""

import contextlib
import os
from collections.abc import Iterator

from absl import flags
from ml_collections import config_flags

from metasemi_jax.errors import UserError

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
    # This imports JAX, which takes a second, and a mistyped flag should not have to wait for it.
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
            f'--output={output} cannot be written ({error.strerror or error}); name another {kind}'
        ) from error
