"""The config of a fit: the recipe of one's own images, with what the caller gives."""

from collections.abc import Mapping
from typing import Any

from metasemi_jax.command.advice import did_you_mean
from metasemi_jax.config.checks import check_config
from metasemi_jax.config.fields import FIELDS, LOCATIONS
from metasemi_jax.configs import folder
from metasemi_jax.errors import UserError

# Fields on the location and split of data and on files: they mean nothing for arrays in memory.
MEANINGLESS = (
    *LOCATIONS,
    'checkpoint_every',
    'data.crop',
    'data.crop_area',
    'data.crop_aspect',
    'data.include_labeled',
    'data.name',
    'data.num_labels',
    'data.num_validation',
    'eval_batch_size',
    'model.init_from',
    'on_nonfinite',
    'recipe',
)
# Fields that `fit` takes as parameters of their own.
PARAMETERS = {
    'batch_size': 'batch_size',
    'data.flip': 'flip',
    'method.name': 'method',
    'model.name': 'model',
    'seed': 'random_state',
    'time_budget': 'time_budget',
    'total_steps': 'total_steps',
}


def make_config(given: Mapping[str, Any], settings: Mapping[str, Any] | None) -> Any:
    """The config of `configs/folder.py` for a fit; what neither names is left to the recipe.

    Args:
      given: values of the fields in `PARAMETERS`; None leaves one as it is.
      settings: values of other fields, {'optimizer.lr': 0.03}.

    Raises:
      UserError: an unknown field, or a value that no run can have.
    """
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise UserError(f"settings={settings!r} must be a dict, as {{'optimizer.lr': 0.03}}")
    settings = dict(settings)
    for name in settings:
        _check_name(str(name))
    given = {name: value for name, value in given.items() if value is not None}
    config = folder.get_config(given.get('method.name'))
    with config.ignore_type():
        config.update_from_flattened_dict(given | settings)
    check_config(config)
    return config


def _check_name(name: str) -> None:
    if name in PARAMETERS:
        raise UserError(
            f"settings['{name}'] is the parameter {PARAMETERS[name]} of the classifier; give that"
        )
    known = [field for field in FIELDS if field not in MEANINGLESS and field not in PARAMETERS]
    if name in MEANINGLESS:
        raise UserError(f"settings['{name}'] means nothing for arrays in memory; leave it out")
    if name not in known and not name.startswith('method.'):
        advice = did_you_mean(name, known, form="'{}'") or '; configs/default.py lists the fields'
        raise UserError(f"settings['{name}'] is no field of a run{advice}")
