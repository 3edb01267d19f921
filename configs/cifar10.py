"""MetaSemi on CIFAR-10 with 4,000 labels, the recipe of the paper (ConvLarge, 400,000 steps of 128 + 128).

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10

The paper reports 7.78% test error (labeled only 15.43%), the best of about 1,000
evaluations on the test set.
Not reproduced here yet.

    python main.py --config=configs/cifar10.py --config.method.name=fixmatch

Another method comes with the settings that it was published with (configs/wide_resnet.py).
"""

from metasemi_jax.configs import default, wide_resnet


def get_config(method='metasemi'):
    """CIFAR-10's deviations from `default`."""
    config = default.get_config(method)
    config.seed = 8469

    config.data.name = 'cifar10'
    config.data.num_labels = 4000
    config.data.flip = True
    config.data.mean = (0.49139968, 0.48215841, 0.44653091)
    config.data.std = (0.24703223, 0.24348513, 0.26158784)

    if method == 'metasemi':
        config.method.mixup_gamma = 1.0
        config.optimizer.weight_decay = 1e-4
        return config
    wide_resnet.apply(config, method)
    return config
