"""Where arrays lie: the state on every device, each batch split among them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from metasemi_jax.errors import UserError

PyTree = Any
DATA_AXIS = 'data'


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis 'data' over `devices`, by default all devices of all processes.

    Its axis is Auto: under `jit` the compiler sees the global batch, so that BatchNorm's statistics, the
    losses and the meta-gradient are those of all its images, and places the sums among devices itself.
    """
    devices = jax.devices() if devices is None else devices
    # Not `jax.make_mesh`, which would order a TPU's devices by their wiring: each process feeds one stretch
    # of the rows of a batch, so its devices must lie side by side.
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(ordered), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_axis(mesh: Mesh, axis: int) -> NamedSharding:
    """`axis` cut into one stretch for each device, in the order of the mesh."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA_AXIS))


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Copy host arrays to the devices, as an explicit transfer.

    Args:
      tree: NumPy arrays. Where `sharding` splits an axis, each process gives its own stretch of it, as
        `process_rows` says; otherwise all give the same.
      sharding: the layout of every leaf.
    """
    if jax.process_count() == 1:
        # A CPU device would take the NumPy memory itself, and the caller may donate the array.
        return jax.device_put(tree, sharding, may_alias=False)
    # JAX takes this function for an implicit transfer.
    with jax.transfer_guard('allow'):
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def process_rows(num_rows: int, process_index: int, process_count: int) -> slice:
    """The stretch of `num_rows` rows that a process feeds; all processes have equally many devices."""
    share = num_rows // process_count
    return slice(process_index * share, (process_index + 1) * share)


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Refuse a batch that the devices cannot share evenly."""
    rest = batch_size % num_devices
    if rest:
        below = batch_size - rest
        nearest = f'{below} or {below + num_devices}' if below else f'{num_devices}'
        raise UserError(
            f'batch_size={batch_size} cannot be shared evenly by {num_devices} devices; use {nearest}'
        )
