"""The step of the method in plain PyTorch, as a fair peer would write it; for `step_time` alone.

ConvLarge, mix-up on, the paper's central difference: the same twelve forward passes.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

EPSILON = 1e-2
CHANNELS = ((3, 1), (3, 1), (3, 1), 'pool', (3, 2), (3, 2), (3, 2), 'pool', (3, 4), (1, 2), (1, 1))


def conv_large(width: int, num_classes: int, channels: int) -> nn.Module:
    """ConvLarge, `width` channels in its first block, as `metasemi_jax/models/conv_large.py` has it."""
    layers: list[nn.Module] = []
    for layer in CHANNELS:
        if layer == 'pool':
            layers += [nn.MaxPool2d(2), nn.Dropout2d(0.5)]
            continue
        kernel, factor = layer
        padding = 0 if factor == 4 else kernel // 2
        layers += [
            nn.Conv2d(channels, width * factor, kernel, padding=padding, bias=False),
            nn.BatchNorm2d(width * factor),
            nn.LeakyReLU(0.1, inplace=True),
        ]
        channels = width * factor
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class Step:
    """One step a call, on images that lie on the device; `amp` computes in bfloat16 where that is safe."""

    def __init__(
        self,
        *,
        batch_size: int,
        width: int,
        num_classes: int,
        device: str,
        amp: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
        gamma: float = 1.0,
    ):
        self.amp, self.device, self.num_classes = amp, device, num_classes
        self.model = conv_large(width, num_classes, 3).to(device)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = self.model.to(memory_format=layout)
        self.network = torch.compile(self.model) if compiled else self.model
        self.params = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.params, lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.beta = torch.distributions.Beta(gamma, gamma)
        shape = (batch_size, 3, 32, 32)
        self.labeled = torch.randn(shape, device=device).to(memory_format=layout)
        self.unlabeled = torch.randn(shape, device=device).to(memory_format=layout)
        self.labels = torch.randint(num_classes, (batch_size,), device=device)

    def logits(self, images: Any) -> Any:
        """In float32, whatever it is computed in."""
        with torch.autocast(self.device.split(':')[0], torch.bfloat16, enabled=self.amp):
            return self.network(images).float()

    def __call__(self) -> None:
        """One step, as docs/method.md has it."""
        lr, weight = 0.1, 1.0
        self.model.eval()
        with torch.no_grad():
            pseudo = self.logits(self.unlabeled).softmax(1)
        loss = functional.cross_entropy(self.logits(self.labeled), self.labels)
        grads = torch.autograd.grad(loss, self.params)
        with torch.no_grad():
            epsilon = EPSILON / torch.sqrt(sum((g**2).sum() for g in grads))
            self._move(grads, epsilon)
            ahead = self.logits(self.unlabeled).softmax(1)
            self._move(grads, -2 * epsilon)
            behind = self.logits(self.unlabeled).softmax(1)
            self._move(grads, epsilon)
            moved = (pseudo - lr * (ahead - behind) / epsilon).clamp(min=0)
            targets = moved / moved.sum(1, keepdim=True).clamp(min=1e-30)
        self.model.train()
        mix = self.beta.sample((len(self.labels),)).to(self.device)
        rows = mix[:, None, None, None]
        images = rows * self.labeled + (1 - rows) * self.unlabeled
        one_hot = functional.one_hot(self.labels, self.num_classes).float()
        mixed = mix[:, None] * one_hot + (1 - mix[:, None]) * targets
        classification = functional.kl_div(self.logits(images).log_softmax(1), mixed, reduction='batchmean')
        probs = self.logits(self.unlabeled).softmax(1)
        consistency = ((probs - targets) ** 2).sum(1).mean()
        self.optimizer.zero_grad(set_to_none=True)
        (classification + weight * consistency).backward()
        self.optimizer.step()

    def _move(self, grads: Any, distance: Any) -> None:
        for param, grad in zip(self.params, grads, strict=True):
            param.add_(grad * distance)
