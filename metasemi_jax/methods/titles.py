"""What tables and pictures call a method."""

from typing import Any

TITLES = {
    'supervised': 'Supervised',
    'pseudo_label': 'Pseudo-Label',
    'pi_model': 'Π model',
    'temporal_ensembling': 'Temporal Ensembling',
    'mean_teacher': 'Mean Teacher',
    'ict': 'ICT',
    'mixmatch': 'MixMatch',
    'uda': 'UDA',
    'fixmatch': 'FixMatch',
    'flexmatch': 'FlexMatch',
    'freematch': 'FreeMatch',
    'softmatch': 'SoftMatch',
}
# The rows of MetaSemi's paper: meta, mixup.
ABLATION = {
    (False, False): 'labeled only',
    (True, False): 'meta only',
    (False, True): 'mix-up only',
    (True, True): 'MetaSemi',
}


def method_title(fields: dict[str, Any]) -> str:
    """The name of a method with these settings; a method of one's own is called like its function.

    Args:
      fields: flat config of a run, as `settled` completes it: {'method.name': 'fixmatch', ...}.
    """
    name, meta = fields['method.name'], fields.get('method.meta')
    if name == 'metasemi':
        return ABLATION[bool(meta), bool(fields.get('method.mixup'))]
    if name == 'vat':
        title = 'VAT + EntMin' if fields.get('method.entropy_weight') else 'VAT'
    else:
        title = TITLES.get(name, name.rsplit(':', 1)[-1])
    return f'{title} + meta' if meta else title
