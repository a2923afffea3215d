"""Fine-tuning after cross-entropy: what the authors recommend, against more cross-entropy from the same weights.

A rare class and a network that cannot solve the task: there the two losses want different things.
"""

import copy

import torch
from torch import nn

from lovasz import LovaszSoftmaxLoss
from lovasz.metrics import DatasetIoU

torch.manual_seed(0)

# Drawn data: much ground (0), a square (1), a small dot (2), in noise. Your data stands here.
masks = torch.zeros(48, 32, 32, dtype=torch.long)
for mask in masks:
    for label, side in ((1, 12), (2, 4)):
        y, x = torch.randint(0, 32 - side, (2,)).tolist()
        mask[y : y + side, x : x + side] = label
images = torch.eye(3)[masks].movedim(-1, 1) + 1.5 * torch.randn(48, 3, 32, 32)
train, test = (images[:32], masks[:32]), (images[32:], masks[32:])

network = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))


def fit(network, criterion, epochs, learning_rate):
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for image, mask in zip(train[0].split(8), train[1].split(8), strict=True):
            loss = criterion(network(image), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@torch.no_grad()
def miou(network):
    metric = DatasetIoU(num_classes=3)
    metric.update(network(test[0]).argmax(1), test[1])
    return float(metric.compute())


# First cross-entropy, until it has found the classes. Then the measure itself, with a smaller learning rate.
fit(network, nn.CrossEntropyLoss(), epochs=30, learning_rate=3e-2)
at_branch = miou(network)
cross_entropy = miou(fit(copy.deepcopy(network), nn.CrossEntropyLoss(), epochs=15, learning_rate=1e-2))
lovasz_softmax = miou(fit(copy.deepcopy(network), LovaszSoftmaxLoss(), epochs=15, learning_rate=1e-2))

print(f"test mIoU after cross-entropy {at_branch:.3f}")
print(f"after more cross-entropy {cross_entropy:.3f}, after Lovász-Softmax {lovasz_softmax:.3f}")
