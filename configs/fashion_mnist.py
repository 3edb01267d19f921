"""Fashion-MNIST with 1,000 labels, the settings of configs/mnist.py with random flips.

    python main.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

The first run downloads the four files (31 MB), or takes them from data.manual_dir (docs/data.md); they are
called as MNIST's are, so they need a folder of their own. Not run to its end here; no result is claimed.
"""

from metasemi_jax.configs import mnist


def get_config(method='metasemi'):
    """Fashion-MNIST's deviations from `mnist`."""
    config = mnist.get_config(method)
    config.data.name = 'fashion_mnist'
    config.data.num_labels = 1000
    config.data.flip = True
    return config
