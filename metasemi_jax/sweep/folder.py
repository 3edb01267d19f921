"""The folder of a sweep: `sweep.json` says what it sweeps over, and each run has a folder in it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metasemi_jax import files
from metasemi_jax.config.checks import check_saved
from metasemi_jax.config.fields import FIELDS
from metasemi_jax.config.form import differing_fields, flatten
from metasemi_jax.errors import UserError
from metasemi_jax.workdir.outputs import LOG
from metasemi_jax.workdir.reading import naming, read_json

RECORD = 'sweep.json'
REWRITE = (
    'delete it, and start the command of this sweep again: it writes the file, and trains no finished run '
    'anew'
)


def run_name(setting: dict[str, Any], seed: int) -> str:
    """The name of a run's folder: 'method.meta=True,method.mixup=False,seed=3'."""
    # A value must not lead into another folder, and two values must not give one name.
    return ','.join(
        f'{name}={quote(str(value), safe=" ()")}' for name, value in {**setting, 'seed': seed}.items()
    )


def is_sweep(folder: Path) -> bool:
    """Whether `folder` is a sweep's."""
    return (folder / RECORD).exists()


def run_folders(folder: Path) -> list[Path]:
    """The folders of the runs that were started, in the order of their names."""
    return sorted(
        path for path in folder.iterdir() if (path / LOG).exists() or (path / 'config.json').exists()
    )


def swept_fields(folder: Path) -> list[str]:
    """The fields that a sweep's runs differ in, the seed aside."""
    return _read_record(folder)['fields']


def _read_record(folder: Path) -> dict[str, Any]:
    record = read_json(folder / RECORD, REWRITE)
    with naming(folder / RECORD, REWRITE):
        fields, config = record.get('fields'), record.get('config')
        if not isinstance(fields, list) or not all(isinstance(name, str) for name in fields):
            raise UserError(f'fields={fields!r} must be a list of names')
        if unknown := [name for name in fields if name not in FIELDS]:
            raise UserError(f"fields: there is no setting '{unknown[0]}'")
        if not isinstance(config, dict):
            raise UserError(f'config={config!r} must hold the settings')
        check_saved(config, may_be_open=True)  # each run chooses what its recipe leaves open
    return record


def check_record(folder: Path, fields: list[str], config: Any) -> None:
    """Refuse to add runs of another sweep to `folder`.

    Raises:
      UserError: it was begun with other fields, or another config, or is the folder of a run.
    """
    if (folder / 'config.json').exists():
        raise UserError(f'--workdir={folder} holds a run; name another folder for the sweep')
    if not is_sweep(folder):
        return
    record = _read_record(folder)
    begun = record['fields']
    if {*begun} != {*fields}:
        raise UserError(
            f'--workdir={folder} holds a sweep over {_names(begun)}, not over {_names(fields)}; '
            'name another folder'
        )
    saved = record['config']
    if differing := differing_fields(*(_without(each, {*fields, 'seed'}) for each in (saved, config))):
        raise UserError(
            f'--workdir={folder} holds a sweep with another config ({"; ".join(differing)}); '
            'name another folder, or use the same settings to continue that sweep'
        )


def sweep_lock(folder: Path) -> AbstractContextManager[None]:
    """Make the folder of a sweep, and keep it to this process: two would start each run twice.

    Raises:
      UserError: another sweep is at work in it.
    """

    def refuse() -> None:
        busy = 'another sweep is at work in it; wait for its end, or name another folder'
        raise UserError(f'--workdir={folder}: {busy}')

    return files.lock(folder / '.lock', waiting=refuse)


def write_record(folder: Path, fields: list[str], config: Any) -> None:
    """Write the record that makes `folder` the folder of a sweep of `config` over `fields`."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / RECORD, {'fields': fields, 'config': config.to_dict()})


def _without(config: Any, names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in flatten(config).items() if name not in names}


def _names(fields: list[str]) -> str:
    return ', '.join(fields) or 'seeds alone'
