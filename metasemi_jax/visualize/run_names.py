"""What to call runs in pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metasemi_jax.config.fields import LOCATIONS
from metasemi_jax.config.form import settled
from metasemi_jax.errors import UserError
from metasemi_jax.methods import method_options

NAMED_FIELDS = 4  # that differ between runs; more would make no name
# Fields that do not change what is learnt.
CADENCE = ('log_every', 'eval_every', 'eval_batch_size', 'checkpoint_every', 'steps_per_call')
UNNAMED_FIELDS = {*LOCATIONS, *CADENCE, 'method.name'}


def run_names(configs: Sequence[dict[str, Any]], folders: Sequence[str]) -> list[str]:
    """A name for each run: its method, its dataset if alone, and what else tells it apart.

    Args:
      configs: flat, of any version.
      folders: their names, added where nothing else differs.
    """
    configs = [settled({'data.name': '', 'seed': 0} | config) for config in configs]
    names = []
    for config in configs:
        fields = [name for name in _differing(configs) if _says_something(config, name, configs)]
        others = [f'{name.removeprefix("method.")}={config.get(name)}' for name in fields[:NAMED_FIELDS]]
        if len(configs) == 1:
            others = [*_own_options(config), config['data.name'], f'seed {config["seed"]}']
        # A user's own method is FOLDER/FILE.py:FUNCTION.
        method = Path(str(config['method.name'])).name
        names.append(', '.join([method, *others, *['…'] * (len(fields) > NAMED_FIELDS)]))
    if len({*names}) < len(names):
        names = [f'{name} ({folder})' for name, folder in zip(names, folders, strict=True)]
    return names


def _differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    fields = sorted({field for config in configs for field in config} - UNNAMED_FIELDS)
    # The options of the method come first: users compare them.
    fields.sort(key=lambda name: not name.startswith('method.'))
    return [name for name in fields if len({str(config.get(name)) for config in configs}) > 1]


def _says_something(config: dict[str, Any], name: str, configs: Sequence[dict[str, Any]]) -> bool:
    """Whether runs of one method differ in this option of it."""
    if not name.startswith('method.'):
        return True
    alike = [other.get(name) for other in configs if other['method.name'] == config['method.name']]
    return config.get(name) is not None and len({*map(str, alike)}) > 1


def _own_options(config: dict[str, Any]) -> list[str]:
    """The method's boolean options that differ from its defaults."""
    try:
        defaults = method_options(config['method.name'])
    except UserError:
        return []
    return [
        f'{name}={config[f"method.{name}"]}'
        for name, default in defaults.items()
        if isinstance(default, bool) and config.get(f'method.{name}') not in (None, default)
    ]


def output_folders(names: Sequence[str]) -> list[str]:
    """'NAME/' for each of several runs whose folders have these names, unique; '' for one alone."""
    if len(names) == 1:
        return ['']
    folders: list[str] = []
    for name in names:
        candidates = [name, *(f'{name}_{i}' for i in range(2, len(names) + 2))]
        folders.append(next(name for name in candidates if f'{name}/' not in folders) + '/')
    return folders
