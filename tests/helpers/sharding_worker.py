"""What `test_sharding.py` looks at, on eight virtual devices: a program, since JAX makes them when it starts.

python tests/helpers/sharding_worker.py OUT.npz
"""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

from metasemi_jax.data.batches.resident import resident_pipeline
from metasemi_jax.data.batches.views import make_views
from metasemi_jax.data.dataset import Dataset
from metasemi_jax.data.sampling import Sampling
from metasemi_jax.distributed.sharding import make_mesh, place, replicated
from metasemi_jax.methods import create_method
from metasemi_jax.models import create_model, init_variables
from metasemi_jax.optimizer import sgd_momentum
from metasemi_jax.train_step import TrainState, make_train_step
from metasemi_jax.training.multi_step import make_run_steps, place_host_batches

STEPS = 5
METHOD_STEPS = 16  # by then flexmatch is sure of images of several classes, and not of all
CLASSES = 4
SIZE = 16
FLOAT32_BATCH = 24  # neither this nor its half is an axis of a parameter


# A method with a state, one with a teacher, one whose targets meta moves; thresholds that they reach so soon.
METHODS = {
    'flexmatch': {'threshold': 0.5},
    'mean_teacher': {},
    'fixmatch': {'threshold': 0.5, 'meta': True},
}


def examples(*, easy):
    """Images of noise; the `easy` ones of three classes are bright in a channel: soon told apart."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, SIZE, SIZE, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, 64).astype(np.int32)
    if easy:
        bright = labels[:, None, None, None] == np.arange(3)
        images = np.where(bright, 128 + images // 2, images // 2)
    return images, labels


class Job:
    """Real steps of a narrow network, crops and flips, and with MetaSemi dropout."""

    def __init__(self, net, dtype, *, num_devices, batch_size=8, name='metasemi', **options):
        own = name == 'metasemi'
        images, labels = examples(easy=not own)
        dataset = Dataset(images, labels, np.arange(64).astype(str), None, None, tuple('abcd'))
        self.mesh = make_mesh(jax.devices()[:num_devices])
        model = create_model(net, CLASSES, dtype=dtype, width=4, dropout_rate=0.5 if own else 0.0)
        method = create_method(name, model, **options)
        ema_decay = 0.9 if method.teacher else 0.0
        ratio = 2 if method.second_view == 'strong' else 1
        self.pipeline = resident_pipeline(
            dataset,
            Sampling(np.arange(16), np.arange(16, 64), batch_size, seed=0, unlabeled_ratio=ratio),
            make_views(pad=2, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3, second=method.second_view),
        )
        tx = sgd_momentum(momentum=0.9, weight_decay=1e-4)
        step = make_train_step(method, tx, lr_schedule=lambda step: jnp.asarray(0.1), ema_decay=ema_decay)
        variables = init_variables(model, jax.random.key(0), (SIZE, SIZE, 3))
        variables = jax.tree.map(lambda x: np.asarray(x, dtype), variables)
        state = TrainState.create(
            variables, tx, with_ema=ema_decay > 0, method_state=jax.device_get(method.init(CLASSES, 48))
        )
        self.state = place(state, replicated(self.mesh))
        self.device_data = place(self.pipeline.device_data, replicated(self.mesh))
        self.run_steps = make_run_steps(step, self.pipeline.to_batch, max_steps=1, mesh=self.mesh)

    def args(self, batches):
        everywhere = replicated(self.mesh)
        key = jax.device_put(jax.random.key(7), everywhere)
        return self.state, self.device_data, *place_host_batches(batches, 1, 1, self.mesh), key

    def compile(self):
        return self.run_steps.lower(*self.args(self.pipeline.host_batches(0))).compile()

    def weights(self, compiled, steps=STEPS):
        """{parameter, statistic, average or entry of the method's state: value} after some steps."""
        batches = self.pipeline.host_batches(0)
        for _ in range(steps):
            self.state, _ = compiled(*self.args(batches))
        variables = {name: getattr(self.state, name) for name in ('params', 'batch_stats', 'ema', 'method')}
        return {
            jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(variables)
        }


def collectives(text):
    """[(operation, shape)] of every array that a compiled program sends between devices in one step."""
    found = []
    for line in text.splitlines():
        match = re.search(r'= (.*?) (all-\w+|reduce-scatter|collective-\w+)(-start)?\(', line)
        if match:
            shapes = re.findall(r'\w+\[([\d,]*)\]', match[1])
            found += [(match[2], tuple(map(int, filter(None, shape.split(','))))) for shape in shapes]
    return found


def as_arrays(name, sent):
    """`collectives` as arrays."""
    operations, shapes = zip(*sent, strict=True) if sent else ((), ())
    return {f'{name}/operations': np.array(operations), f'{name}/shapes': np.array(list(map(str, shapes)))}


def main(path):
    jax.config.update('jax_num_cpu_devices', 8)
    jax.config.update('jax_enable_x64', True)
    found = {}
    # ConvLarge is MetaSemi's network in the paper; the small one compiles sooner.
    for net, dtype, n, batch_size in (
        ('conv_small', np.float64, 1, 8),
        ('conv_small', np.float64, 8, 8),
        ('conv_large', np.float32, 2, FLOAT32_BATCH),
        ('conv_large', np.float32, 8, FLOAT32_BATCH),
    ):
        job = Job(net, dtype, num_devices=n, batch_size=batch_size, rampup_steps=0)
        compiled = job.compile()
        name = f'{np.dtype(dtype).name}/{n}'
        found |= {f'{name}/weights{k}': v for k, v in job.weights(compiled).items()}
        sent = collectives(compiled.as_text())
        found |= as_arrays(name, sent)
    # What methods keep and send does not depend on the layers; these compile soonest.
    for method, options in METHODS.items():
        for n in (1, 8):
            job = Job('mlp', np.float64, num_devices=n, name=method, **options)
            compiled = job.compile()
            weights = job.weights(compiled, METHOD_STEPS)
            found |= {f'{method}/{n}/weights{k}': v for k, v in weights.items()}
            found |= as_arrays(f'sent by {method}/{n}', collectives(compiled.as_text()))
    np.savez(path, **found)


if __name__ == '__main__':
    main(sys.argv[1])
