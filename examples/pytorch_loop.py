"""A plain PyTorch loop with what a real one has: autocast, GradScaler, gradient accumulation, clipping, torch.compile.

The loss is one more line in it. It takes half precision logits and computes in float32, so nothing has to be cast.
"""

import torch
from torch import nn

from lovasz import LovaszSoftmaxLoss

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
half = torch.float16 if device == "cuda" else torch.bfloat16

# Drawn data: squares of two classes on noise; 255 is void. Your DataLoader stands here.
masks = torch.zeros(16, 64, 64, dtype=torch.long)
for i, mask in enumerate(masks):
    y, x = torch.randint(0, 40, (2,)).tolist()
    mask[y : y + 24, x : x + 24] = 1 + i % 2
    mask[0] = 255
images = torch.eye(3)[masks % 255].movedim(-1, 1) + 0.7 * torch.randn(16, 3, 64, 64)
batches = list(zip(images.split(4), masks.split(4), strict=True))

network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)).to(device)
criterion = LovaszSoftmaxLoss(ignore_index=255)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler(device, enabled=half is torch.float16)  # bfloat16 has float32's range and needs none
accumulate = 2  # batches to a step; each has a loss of its own, and their mean is descended


# Network and loss in one graph. On the CPU the default backend, inductor, compiles C++ for a minute: worth it for a
# real network, not for this one.
@torch.compile(fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager")
def forward(images, masks):
    return criterion(network(images), masks)


losses = []
for _ in range(10):
    for i, (image, mask) in enumerate(batches, 1):
        with torch.autocast(device, half):
            loss = forward(image.to(device), mask.to(device))
        scaler.scale(loss / accumulate).backward()
        losses.append(loss.detach())
        if i % accumulate == 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

first, last = (float(torch.stack(part).mean()) for part in (losses[:4], losses[-4:]))
print(f"Lovász-Softmax loss, mean over an epoch: {first:.3f} at first, {last:.3f} at last")
