"""The folder of a sweep: `sweep.json` says what it sweeps over, and each run has a folder in it."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from metasemi_jax.config import differing_fields, flatten
from metasemi_jax.errors import UserError
from metasemi_jax.workdir import read_json, write_json

RECORD = 'sweep.json'
LOG = 'log.txt'  # of a run: what it printed


def run_name(setting: dict[str, Any], seed: int) -> str:
    """The name of a run's folder: 'method.meta=True,method.mixup=False,seed=3'."""
    # No value may lead into another folder, and no two may come to the same name.
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
    """The fields that a sweep's runs differ in, the seed aside.

    Raises:
      UserError: its record is damaged.
    """
    record = read_json(folder / RECORD)
    fields = record.get('fields')
    if not isinstance(fields, list) or not isinstance(record.get('config'), dict):
        raise UserError(f'{folder / RECORD} is damaged; start the sweep again in another --workdir')
    return fields


def check_record(folder: Path, fields: list[str], config: Any) -> None:
    """Refuse to add runs of another sweep to `folder`.

    Raises:
      UserError: it was begun with other fields, or another config, or is the folder of a run.
    """
    if (folder / 'config.json').exists():
        raise UserError(f'--workdir={folder} holds a run; name another folder for the sweep')
    if not is_sweep(folder):
        return
    begun = swept_fields(folder)
    if {*begun} != {*fields}:
        raise UserError(
            f'--workdir={folder} holds a sweep over {_names(begun)}, not over {_names(fields)}; '
            'name another folder'
        )
    base = read_json(folder / RECORD)['config']
    if differing := differing_fields(*(_without(each, {*fields, 'seed'}) for each in (base, config))):
        raise UserError(
            f'--workdir={folder} holds a sweep with another config ({"; ".join(differing)}); '
            'name another folder, or use the same settings to continue that sweep'
        )


def write_record(folder: Path, fields: list[str], config: Any) -> None:
    """Make `folder` that of a sweep of `config` over `fields`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD, {'fields': fields, 'config': config.to_dict()})


def _without(config: Any, names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in flatten(config).items() if name not in names}


def _names(fields: list[str]) -> str:
    return ', '.join(fields) or 'seeds alone'
