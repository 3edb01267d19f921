"""Files of published weights: read as data alone, and what is wrong with one said in one line."""

import os
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.errors import UserError
from metasemi_jax.pretrained.networks import as_published
from metasemi_jax.pretrained.weights_file import read_weights
from torch_files import tiny_state_dict, write_pth, write_safetensors

ARRAYS = {
    'a': np.arange(6, dtype=np.float32).reshape(2, 3),
    'b': np.array(2.5, np.float16),
    'c': np.array([1.5, -2], jnp.bfloat16),
    'n': np.array([3], np.int64),
}


def assert_same(read, arrays):
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read[name], array)


def refusal(path):
    with pytest.raises(UserError) as refused:
        read_weights(path)
    assert '\n' not in str(refused.value)
    return str(refused.value)


def test_every_format_gives_the_arrays(tmp_path):
    assert_same(read_weights(write_safetensors(tmp_path / 'a', ARRAYS)), ARRAYS)
    assert_same(read_weights(write_pth(tmp_path / 'b', ARRAYS)), ARRAYS)
    assert_same(read_weights(write_pth(tmp_path / 'c', ARRAYS, older=True)), ARRAYS)


def test_safetensors_by_hand(tmp_path):
    header = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    data = bytes.fromhex('0000803f000000c0')  # 1 and -2
    (tmp_path / 'a').write_bytes(len(header).to_bytes(8, 'little') + header + data)
    assert read_weights(tmp_path / 'a')['x'].tolist() == [1, -2]


@pytest.mark.parametrize('key', ['state_dict', 'model', 'teacher'])
def test_weights_are_found_beside_other_things(tmp_path, key):
    checkpoint = {'epoch': 3, key: ARRAYS, 'args': {'lr': 0.1}}
    assert_same(read_weights(write_pth(tmp_path / 'a.pth', checkpoint)), ARRAYS)


class Runs:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('older', [False, True])
def test_a_file_that_would_run_code_is_refused(tmp_path, older):
    path = write_pth(tmp_path / 'evil.pth', {'a': ARRAYS['a'], 'b': Runs(tmp_path / 'made')}, older=older)
    assert 'evil.pth would run posix.mkdir when loaded; it was not run' in refusal(path)
    assert os.listdir(tmp_path) == ['evil.pth']


@pytest.mark.parametrize(
    'code',
    [
        b'cbuiltins\neval\n(V1\ntR.',
        b'ctorch\nload\n(V/etc/passwd\ntR.',
        b'ccollections\nOrderedDict.fromkeys\n(tR.',
        b'cos\nsystem\n.',  # named alone
        b'ctorch._utils\n_rebuild_tensor_v2.__globals__\n.',
    ],
)
def test_no_name_is_known_but_those_of_weights(tmp_path, code):
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        archive.writestr('a/data.pkl', b'\x80\x02' + code)
    assert 'would run' in refusal(tmp_path / 'a.pth')


def test_a_function_that_is_known_makes_nothing_but_arrays(tmp_path):
    """Storages smaller than their tensors, negative sizes, strides of 0 that would fill the memory."""
    for shape, strides, offset in (((9,), (1,), 0), ((-1,), (1,), 0), ((10**12,), (0,), 0), ((2,), (1,), 5)):
        storage = b'(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI6\ntQ'
        numbers = [b'(' + b''.join(b'I%d\n' % n for n in sizes) + b't' for sizes in (shape, strides)]
        body = b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + b'I%d\n' % offset + b''.join(numbers)
        with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
            archive.writestr('a/data.pkl', b'\x80\x02}V' + b'x\n' + body + b'I00\n}tRs.')
            archive.writestr('a/data/0', bytes(24))
        assert 'is no PyTorch file, or a damaged one' in refusal(tmp_path / 'a.pth')


@pytest.mark.parametrize('older', [False, True])
@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
def test_a_part_of_a_file_is_refused(tmp_path, older, share):
    for path in (
        write_pth(tmp_path / 'a.pth', ARRAYS, older=older),
        write_safetensors(tmp_path / 'b.safetensors', ARRAYS),
    ):
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        assert any(word in refusal(path) for word in ('damaged', 'cut short'))


@pytest.mark.parametrize(
    ('contents', 'message'),
    [
        (b'', 'is empty; download it again'),
        (b'<!DOCTYPE html><html>', 'is a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid', 'is a pointer of Git LFS'),
        (b'no weights at all, but text', 'is no PyTorch file, or a damaged one'),
        (b'PK\x03\x04 cut short', 'is no PyTorch file, or a damaged one'),
        ((99).to_bytes(8, 'little') + b'{}', 'is cut short, or no safetensors file'),
        ((2).to_bytes(8, 'little') + b'{]', 'has a damaged header'),
        (
            (58).to_bytes(8, 'little') + b'{"x":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}' + b'0',
            "holds 'x' in the dtype 'F8_E4M3', which is unknown",
        ),
        (
            (55).to_bytes(8, 'little')
            + b'{"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}'
            + b'0' * 8,
            "has a damaged header ('x')",
        ),
        ((2).to_bytes(8, 'little') + b'{}', 'holds no weights'),
    ],
)
def test_what_is_wrong_is_said(tmp_path, contents, message):
    (tmp_path / 'a.pth').write_bytes(contents)
    assert message in refusal(tmp_path / 'a.pth')


def test_what_is_no_file_is_said(tmp_path):
    assert 'there is no such file' in refusal(tmp_path / 'a.pth')
    assert 'cannot be read (Is a directory)' in refusal(tmp_path)
    assert 'holds no weights' in refusal(write_pth(tmp_path / 'b.pth', {'epoch': 3}))


def test_a_pickle_that_holds_itself_ends(tmp_path):
    nested = [1]
    for _ in range(60):
        nested = [nested, nested]
    assert 'holds no weights' in refusal(write_pth(tmp_path / 'b.pth', {'x': nested}))
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        archive.writestr('a/data.pkl', b'\x80\x02]q\x00h\x00a.')
    assert 'damaged' in refusal(tmp_path / 'a.pth')


VIT = {'width': 16, 'depth': 1}


@pytest.mark.parametrize(
    ('name', 'side', 'sizes', 'mean'),
    [
        ('resnet18', 32, {'width': 2}, 0.485),
        ('resnet50', 32, {'width': 2}, 0.485),
        ('efficientnet_lite0', 32, {'width': 4}, 127 / 255),
        ('vit_s16', 32, VIT, 0.5),
        ('dinov2_s14', 28, VIT, 0.485),
        ('dinov2_s14_registers', 28, VIT, 0.485),
        ('dinov3_s16', 32, VIT, 0.485),
    ],
)
def test_the_network_is_recognised(name, side, sizes, mean):
    state_dict = tiny_state_dict(name, side=side, **sizes)
    published = as_published({f'module.{key}': array for key, array in state_dict.items()})
    assert published.name == name
    assert (published.sizes, published.head_classes) == (sizes, 7)
    assert published.mean[0] == mean
    assert 'classifier' not in published.body['params']
    assert published.grid == (2 if name in ('vit_s16', 'dinov2_s14', 'dinov2_s14_registers') else None)


def test_a_transformer_trained_without_labels_has_imagenets_normalisation():
    state_dict = tiny_state_dict('vit_s16', **VIT)
    body = {key: array for key, array in state_dict.items() if not key.startswith('head.')}
    published = as_published(body)
    assert (published.head_classes, published.mean[0]) == (None, 0.485)


def test_facebooks_names_of_dinov2():
    state_dict = tiny_state_dict('dinov2_s14_registers', side=28, **VIT)
    state_dict['register_tokens'] = state_dict.pop('reg_token')
    state_dict['mask_token'] = np.zeros((1, 16), np.float32)
    assert as_published(state_dict).name.endswith('_registers')


def changed(name, **sizes):
    state_dict = tiny_state_dict(name, **sizes)
    return lambda **arrays: {key: array for key, array in (state_dict | arrays).items() if array is not None}


def test_another_network_is_refused_by_what_it_has():
    resnet, vit = changed('resnet18', width=2), changed('vit_s16', **VIT)
    light = changed('efficientnet_lite0', width=4)
    one = np.ones(1, np.float32)
    rows = [
        (
            {'features.0.weight': np.ones((8, 3), np.float32)},
            "is of another network ('features.0.weight' (8, 3",
        ),
        (resnet(**{'layer1.2.conv1.weight': one}), 'is a ResNet of [3, 2, 2, 2] basic blocks'),
        (
            resnet(**{'bn1.weight': None}),
            "is a damaged resnet18: the state dict of resnet18 lacks 'bn1.weight'",
        ),
        (resnet(**{'extra.weight': one}), "has the unexpected 'extra.weight'"),
        (resnet(**{'bn1.bias': one}), "'bn1.bias' has shape (1,), not the (2,)"),
        (resnet(**{'bn1.bias': np.array([1, 2])}), "'bn1.bias' is no floating-point array"),
        (resnet(**{'bn1.bias': np.array([1, np.nan], np.float32)}), 'not finite, in params/bn1/bias'),
        (resnet(**{'fc.bias': np.ones(5, np.float32)}), 'the last layer is damaged'),
        (light(**{'_blocks.0._se_reduce.weight': one}), 'is an EfficientNet with attention'),
        (light(**{'_blocks.16._bn0.weight': one}), 'is an EfficientNet of 17 blocks'),
        (vit(pos_embed=None), 'patches of (16, 16), 0 registers, without learnt positions'),
        (vit(pos_embed=np.ones((1, 4, 16), np.float32)), "'pos_embed' has shape (1, 4, 16)"),
        (vit(**{'patch_embed.proj.weight': np.ones((16, 3, 32, 32), np.float32)}), 'of patches of (32, 32)'),
        (tiny_state_dict('conv_large', width=2), 'is of another network'),
    ]
    for weights, message in rows:
        with pytest.raises(UserError) as refused:
            as_published(weights)
        assert message in str(refused.value)
        assert '\n' not in str(refused.value)
