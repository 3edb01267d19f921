"""MetaSemi on SVHN with 1,000 labels, the recipe of the paper (ConvLarge, 400,000 steps of 128 + 128).

    python main.py --config=configs/svhn.py --workdir=runs/svhn

The paper reports 3.15% test error (labeled only 9.76%), the best of about 1,000
evaluations on the test set.
Not reproduced here yet.

    python main.py --config=configs/svhn.py --config.method.name=fixmatch

Another method comes with the settings that it was published with (configs/wide_resnet.py).
"""

from metasemi_jax.configs import default, wide_resnet


def get_config(method='metasemi'):
    """SVHN's deviations from `default`."""
    config = default.get_config(method)
    config.seed = 7788

    config.data.name = 'svhn_cropped'
    config.data.num_labels = 1000
    config.data.flip = False
    config.data.mean = (0.4376821, 0.4437697, 0.47280442)
    config.data.std = (0.19803012, 0.20101562, 0.19703614)

    if method == 'metasemi':
        config.method.mixup_gamma = 0.1
        config.optimizer.weight_decay = 5e-5
        return config
    wide_resnet.apply(config, method)
    if method == 'mixmatch':
        config.method.consistency_weight = 250.0
    if method == 'freematch':
        config.method.most = 0.95
    if method == 'ict':
        config.method.mixup_gamma = 0.1
    return config
