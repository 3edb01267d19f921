"""Semi-supervised learning in JAX and Flax: MetaSemi (AISTATS 2021), other methods, one training step.

`__all__` is what is public. A name is imported when it is first used, so that this import takes no time.
"""

import importlib

from metasemi_jax.command.start import begin_module

begin_module()

_HOMES = {
    'sklearn': ('MetaSemiClassifier',),
    'classifier': ('load_classifier', 'predict_images'),
    'errors': ('DivergedError', 'UserError'),
    'export': ('write_export',),
    'meta_gradient': ('update_pseudo_labels',),
    'methods': ('METHODS', 'create_method', 'method_options'),
    'models': ('MODELS', 'create_model', 'init_variables'),
    'optimizer': ('make_optimizer',),
    'train_step': ('Batch', 'TrainState', 'make_train_step', 'metasemi_grads'),
    'training.loop': ('train_and_evaluate',),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value = getattr(importlib.import_module(f'{__name__}.{_HOME_OF[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
