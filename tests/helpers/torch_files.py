"""`.pth` files as PyTorch writes them, in both formats, without PyTorch; and tiny published networks."""

import collections
import io
import json
import pickle
import sys
import types
import zipfile
from unittest import mock

import jax
import numpy as np

from metasemi_jax.models import create_model, variable_shapes
from metasemi_jax.pretrained.torch_file import MAGIC, PROTOCOL, STORAGES
from metasemi_jax.torch_import.state_dict import to_state_dict

KINDS = {dtype: name for name, dtype in STORAGES.items()}
CODES = {'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16', 'int64': 'I64', 'float64': 'F64'}


class _Storage:
    def __init__(self, array):
        self.array, self.kind = array, KINDS[array.dtype]


class _Tensor:
    def __init__(self, array):
        self.storage, self.shape = _Storage(array.copy(order='C')), array.shape
        self.strides = tuple(stride // array.itemsize for stride in self.storage.array.strides)

    def __reduce__(self):
        options = (False, collections.OrderedDict())
        rebuild = sys.modules['torch._utils']._rebuild_tensor_v2
        return rebuild, (self.storage, 0, self.shape, self.strides, *options)


class _Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []

    def persistent_id(self, value):
        if not isinstance(value, _Storage):
            return None
        self.storages.append(value)
        kind = getattr(sys.modules['torch'], value.kind)
        return 'storage', kind, str(len(self.storages) - 1), 'cpu', value.array.size


def _modules():
    """Modules of the names that the pickle holds."""
    torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
    for name in STORAGES:
        setattr(torch, name, type(name, (), {'__module__': 'torch'}))

    def _rebuild_tensor_v2():
        raise NotImplementedError

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    return mock.patch.dict(sys.modules, {'torch': torch, 'torch._utils': utils})


def tensors(value):
    """`value` with what `torch.save` would see instead of arrays."""
    if isinstance(value, np.ndarray):
        return _Tensor(value)
    return {key: tensors(child) for key, child in value.items()} if isinstance(value, dict) else value


def write_pth(path, value, *, older=False):
    file = io.BytesIO()
    with _modules():
        pickler = _Pickler(file)
        pickler.dump(tensors(value))
    storages = [storage.array.tobytes() for storage in pickler.storages]
    if older:
        sizes = [storage.array.size for storage in pickler.storages]
        about = (MAGIC, PROTOCOL, {'protocol_version': PROTOCOL, 'little_endian': True})
        parts = [*(pickle.dumps(part, 2) for part in about), file.getvalue()]
        parts.append(pickle.dumps([str(i) for i in range(len(sizes))], 2))
        parts += [size.to_bytes(8, 'little') + data for size, data in zip(sizes, storages, strict=True)]
        path.write_bytes(b''.join(parts))
        return path
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', file.getvalue())
        archive.writestr('archive/byteorder', 'little')
        for i, data in enumerate(storages):
            archive.writestr(f'archive/data/{i}', data)
    return path


def write_safetensors(path, arrays):
    header, end = {'__metadata__': {'format': 'pt'}}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        code = CODES[str(array.dtype)]
        header[name] = {'dtype': code, 'shape': list(array.shape), 'data_offsets': [start, end]}
    text = json.dumps(header).encode()
    data = b''.join(array.tobytes() for array in arrays.values())
    path.write_bytes(len(text).to_bytes(8, 'little') + text + data)
    return path


def tiny_state_dict(name, *, side=32, classes=7, seed=0, **sizes):
    """A network of this package under the names of its PyTorch original, random statistics included."""
    model = create_model(name, classes, **sizes)
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        noise = rng.normal(0, 1, leaf.shape).astype(np.float32)
        if leaf.ndim > 1:
            return noise / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        kind = path[-1].key
        return 0.2 * noise if kind in ('bias', 'mean') else 1 + np.abs(0.2 * noise)

    shapes = variable_shapes(model, (side, side, 3))
    return to_state_dict(name, jax.tree_util.tree_map_with_path(drawn, shapes))
