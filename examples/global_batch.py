"""One batch over several processes: the loss of all images together, not the mean of the losses of parts.

torchrun --standalone --nproc-per-node 2 examples/global_batch.py

Started by plain `python` it is the same with one process. More in docs/distributed.md.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lovasz import LovaszSoftmaxLoss

if dist.is_torchelastic_launched():  # by torchrun, which says who is who
    dist.init_process_group("gloo")  # "nccl", and .cuda() below, on GPUs
else:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
rank, size = dist.get_rank(), dist.get_world_size()

# Drawn data: each image holds one of seven classes on the ground. Each process takes its share of every batch, as with
# a DistributedSampler, and so has only half the classes of a batch.
torch.manual_seed(0)
masks = torch.zeros(16, 48, 48, dtype=torch.long)
for i, mask in enumerate(masks):
    y, x = torch.randint(0, 28, (2,)).tolist()
    mask[y : y + 20, x : x + 20] = 1 + i % 7
images = torch.eye(8)[masks].movedim(-1, 1) + 0.7 * torch.randn(16, 8, 48, 48)
batches = [(images[i : i + 8][rank::size], masks[i : i + 8][rank::size]) for i in (0, 8)]

network = DistributedDataParallel(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1)))
criterion = LovaszSoftmaxLoss(group=dist.group.WORLD)  # after init_process_group: before, WORLD is None
optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)

losses = []
for _ in range(20):
    for image, mask in batches:
        loss = criterion(network(image), mask)  # the same number in every process
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

first, last = sum(losses[:2]) / 2, sum(losses[-2:]) / 2
print(f"process {rank} of {size}: loss of the whole batch {first:.6f} at first, {last:.6f} at last", flush=True)
dist.barrier()  # gloo's threads let go of the last gradients; a process that ends before they do would abort
dist.destroy_process_group()
