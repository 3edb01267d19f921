"""MetaSemi on CIFAR-100 with 10,000 labels, the recipe of the paper (ConvLarge, 400,000 steps of 128 + 128).

    python main.py --config=configs/cifar100.py --workdir=runs/cifar100

The paper reports 30.74% test error (labeled only 38.74%), the best of about 1,000
evaluations on the test set.
Not reproduced here yet.

    python main.py --config=configs/cifar100.py --config.method.name=fixmatch

Another method comes with the settings that it was published with (configs/wide_resnet.py).
"""

from metasemi_jax.configs import default, wide_resnet


def get_config(method='metasemi'):
    """CIFAR-100's deviations from `default`."""
    config = default.get_config(method)
    config.seed = 7788

    config.data.name = 'cifar100'
    config.data.num_labels = 10000
    config.data.flip = True
    config.data.mean = (0.50707516, 0.48654887, 0.44091784)
    config.data.std = (0.26733429, 0.25643846, 0.27615047)

    if method == 'metasemi':
        config.method.mixup_gamma = 1.0
        config.optimizer.weight_decay = 1e-4
        return config
    wide_resnet.apply(config, method)
    if method not in wide_resnet.USB:
        config.model.width = 8  # Google's program; USB's has 2, and its published errors are of that
    if config.optimizer.name == 'sgd':
        config.optimizer.weight_decay = 1e-3
    if method == 'mixmatch':
        config.method.consistency_weight = 150.0
        config.optimizer.weight_decay = 0.04
    if method == 'temporal_ensembling':
        config.method.consistency_weight = 100.0
    return config
