"""MetaSemi on SVHN with 1,000 labels, the recipe of the paper (ConvLarge, 400,000 steps of 128 + 128).

    python main.py --config=configs/svhn.py --workdir=runs/svhn

The paper reports 3.15% test error (labeled only 9.76%), the best of about 1,000
evaluations on the test set.
Not reproduced here yet.
"""

from configs import default


def get_config():
    """SVHN's deviations from `default`."""
    config = default.get_config()
    config.seed = 7788

    config.data.name = 'svhn_cropped'
    config.data.num_labels = 1000
    config.data.flip = False
    config.data.mean = (0.4376821, 0.4437697, 0.47280442)
    config.data.std = (0.19803012, 0.20101562, 0.19703614)

    config.method.mixup_gamma = 0.1
    config.optimizer.weight_decay = 5e-5
    return config
