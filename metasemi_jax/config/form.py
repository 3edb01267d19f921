"""Settings as flat fields: those of a file of any version made whole, compared, changed."""

import copy
import json
from typing import Any

from flax import traverse_util

from metasemi_jax.config.fields import BUDGETED, COSINES, FIELDS, LOCATIONS, MAY_DIFFER
from metasemi_jax.errors import UserError
from metasemi_jax.methods import method_options


def flatten(config: Any) -> dict[str, Any]:
    """A ConfigDict, or its plain dict, as {'data.name': value}, with JSON's types (tuples as lists)."""
    nested = json.loads(json.dumps(config.to_dict() if hasattr(config, 'to_dict') else config))
    return traverse_util.flatten_dict(nested, sep='.')


def with_fields(config: Any, fields: dict[str, Any]) -> Any:
    """A copy of the ConfigDict `config` with the flat `fields` in their place, unchecked."""
    config = copy.deepcopy(config)
    # A file may say lr = 1, an int; `check_config` checks the types.
    with config.ignore_type():
        config.update_from_flattened_dict(fields)
    return config


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """The nested `config` of an older version with the fields that have been added since.

    A field that stood for no one value then stays absent.
    """
    there = flatten(config)
    may_lack = [name for name, field in FIELDS.items() if field.optional or field.absent is not None]
    added = {name: FIELDS[name].absent for name in may_lack if name not in there}
    return traverse_util.unflatten_dict(there | added, sep='.')


def settled(fields: dict[str, Any]) -> dict[str, Any]:
    """The flat `fields` of any version's config.json with what they leave open filled in.

    A field that the version did not have gets the value that it stood for, and a method's option that is
    None gets the method's own, so that two runs of the same settings have the same fields.
    """
    fields = {name: field.absent for name, field in FIELDS.items()} | fields
    try:
        options = method_options(fields['method.name']) if fields['method.name'] is not None else {}
    except UserError:
        # The file of a user's method may be gone; its options stay as they are.
        options = {}
    for option, default in options.items():
        name = f'method.{option}'
        if option != 'total_steps' and fields.get(name) is None:
            fields[name] = default
    # Options that the method does not have, and settings of a part that is switched off, say nothing.
    if options:
        known = {'method.name', *(f'method.{option}' for option in options)}
        meaningless = [name for name in fields if name.startswith('method.') and name not in known]
        if fields['method.name'] == 'metasemi' and not fields['method.mixup']:
            meaningless.append('method.mixup_gamma')
        fields |= dict.fromkeys(meaningless)
    return fields


def differing_fields(old: Any, new: Any) -> list[str]:
    """'field: old value there, new value here' for each field that differs, other than `MAY_DIFFER`.

    Runs of the same time budget have as many steps as their machines did in it.
    """
    there, here = settled(flatten(old)), settled(flatten(new))
    if there['time_budget'] and there['time_budget'] == here['time_budget']:
        there, here = ({**fields, **dict.fromkeys(BUDGETED)} for fields in (there, here))
    return [
        f'{name}: {there.get(name, "absent")} there, {here.get(name, "absent")} here'
        for name in sorted((there.keys() | here.keys()) - {*MAY_DIFFER})
        if there.get(name, 'absent') != here.get(name, 'absent')
    ]


def only_longer(old: Any, new: Any) -> bool:
    """Whether `new` is `old` with more total_steps alone, and so begins with the steps of `old`."""
    there, here = settled(flatten(old)), settled(flatten(new))
    differing = {name for name in there.keys() | here.keys() if there.get(name) != here.get(name)}
    return (
        differing - {*MAY_DIFFER} == {'total_steps'}
        and there['total_steps'] < here['total_steps']
        and here['optimizer.schedule'] not in COSINES
        and not here['time_budget']
        and 'total_steps' not in method_options(here['method.name'])
    )


def agreed_settings(config: Any) -> str:
    """What all processes of a run must have alike, as text: every field but `LOCATIONS`."""
    fields = flatten(config)
    return json.dumps({name: fields[name] for name in sorted(fields.keys() - {*LOCATIONS})})
