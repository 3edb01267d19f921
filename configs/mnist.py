"""MNIST with 100 labels, a small net at 28×28 pixels.

    python main.py --config=configs/mnist.py --workdir=runs/mnist
    python main.py --config=configs/mnist.py --config.method.name=fixmatch --workdir=runs/mnist_fixmatch

The first run downloads the four files (12 MB), or takes them from data.manual_dir (docs/data.md). MetaSemi's
paper has no MNIST, so there is no error to compare with; the settings are those of configs/digits.py on a
longer schedule. On 10,000 of these images a network with dropout lost what it had learnt once the rate
fell, hence none. Not run to its end here; no result is claimed.
"""

from metasemi_jax.configs import default


def get_config(method='metasemi'):
    """MNIST's deviations from `default`."""
    config = default.get_config(method)
    config.total_steps = 20_000
    config.batch_size = 64

    config.data.name = 'mnist'
    config.data.num_labels = 100
    config.data.pad = 2

    config.model.name = 'conv_small'
    config.model.dropout_rate = 0.0

    if method == 'metasemi':
        config.method.mixup_gamma = 1.0
        config.method.rampup_steps = 1000

    config.optimizer.warmup_steps = 500
    config.optimizer.milestones = (15_000, 17_500)
    config.optimizer.weight_decay = 5e-4

    config.eval_every = 500
    config.checkpoint_every = 2000
    return config
