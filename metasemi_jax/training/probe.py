"""Metrics of a few training images in evaluation mode, by which `watch` judges a run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from metasemi_jax.data.batches.views import Statistics, normalize_by
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.distributed.sharding import place, replicated
from metasemi_jax.methods.losses import cross_entropy
from metasemi_jax.methods.network import as_network
from metasemi_jax.metrics import entropy
from metasemi_jax.training.compiler_options import deterministic_options

PROBED_IMAGES = 256  # of each pool
PROBED_BYTES = 1 << 25


class ProbeData(NamedTuple):
    """The same images at every evaluation, not augmented, on every device."""

    labeled_images: Array  # uint8 [n, H, W, C]
    labels: Array  # int32 [n]
    unlabeled_images: Array  # uint8 [m, H, W, C]; m = 0 for a method without unlabeled images
    statistics: Statistics  # to normalise them by


def place_probe_data(
    dataset: Dataset, pools: tuple[np.ndarray, np.ndarray], statistics: Statistics, mesh: Mesh
) -> ProbeData:
    """Draw up to `PROBED_IMAGES` of each pool and place them on the devices of `mesh`.

    Args:
      pools: positions of labeled and unlabeled training images. Every process draws the same.
    """
    images, labels = dataset.train_images, dataset.train_labels
    most = min(PROBED_IMAGES, max(1, PROBED_BYTES // int(np.prod(images.shape[1:]))))
    rng = np.random.default_rng(0)
    drawn = [np.sort(rng.choice(pool, min(most, len(pool)), replace=False)) for pool in pools]
    pixels = [np.asarray(images[positions]) for positions in drawn]
    data = ProbeData(pixels[0], labels[drawn[0]].astype(np.int32), pixels[1], statistics)
    return place(data, replicated(mesh))


@functools.lru_cache(maxsize=16)
def make_probe(model: Any, mesh: Mesh) -> Callable[[dict, ProbeData], dict[str, float]]:
    """(variables, data) -> metrics of the network, from forward passes alone.

    Of the labeled images 'labeled_loss', the mean cross-entropy with running statistics, and
    'batch_statistics_loss', the same with the statistics of these images; neither drops anything. Of the
    unlabeled ones 'entropy' (nats) and 'confidence', means over the images, and 'classes', exp of the entropy
    of the mean prediction: how many classes share the predictions. Waits for the device.

    Args:
      model: a Flax model of this package, or a `Network`.
      mesh: the devices on which variables and data lie.
    """
    network = as_network(model)

    def probe_metrics(variables: dict, data: ProbeData) -> dict[str, Array]:
        normalize = functools.partial(normalize_by, data.statistics)
        images = normalize(data.labeled_images)
        own = network.logits(variables, images)
        fresh, _ = network.train_logits(variables, images, None)
        found = {
            'labeled_loss': jnp.mean(cross_entropy(logits=own, labels=data.labels)),
            'batch_statistics_loss': jnp.mean(cross_entropy(logits=fresh, labels=data.labels)),
        }
        if len(data.unlabeled_images):
            probs = jax.nn.softmax(network.logits(variables, normalize(data.unlabeled_images)))
            found |= {
                'entropy': jnp.mean(entropy(probs)),
                'confidence': jnp.mean(jnp.max(probs, axis=-1)),
                'classes': jnp.exp(entropy(jnp.mean(probs, axis=0))),
            }
        return found

    run = jax.jit(probe_metrics, out_shardings=replicated(mesh), compiler_options=deterministic_options())
    return lambda variables, data: {
        name: float(value) for name, value in jax.device_get(run(variables, data)).items()
    }
