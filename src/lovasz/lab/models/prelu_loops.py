"""The loops of PReLU's backward pass, compiled by Numba; importing this loads numba.

One pass reads the gradient and the input and writes the input's gradient; every row sums for its slopes apart, so that
the result is the same on any number of threads.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from lovasz.loops import compiled, in_threads

_GRAIN = 1 << 14  # values for which a further thread pays
_summing = functools.partial(compiled, any_order=True)


@_summing
def _one_slope(gradient, x, slopes, out, sums, start, stop):  # type: ignore[no-untyped-def]
    """Rows (R, L) with one slope and one sum each."""
    for row in range(start, stop):
        slope, total = slopes[row], np.float32(0)
        for i in range(x.shape[1]):
            value, incoming = x[row, i], gradient[row, i]
            out[row, i] = incoming if value > 0 else incoming * slope
            total += np.float32(0) if value > 0 else incoming * value
        sums[row] = total


@_summing
def _slope_per_channel(gradient, x, slopes, out, sums, start, stop):  # type: ignore[no-untyped-def]
    """Rows of pixels with their channels beside each other (R, W, C); slopes (C,), sums (R, C)."""
    for row in range(start, stop):
        for pixel in range(x.shape[1]):
            for channel in range(x.shape[2]):
                value, incoming = x[row, pixel, channel], gradient[row, pixel, channel]
                out[row, pixel, channel] = incoming if value > 0 else incoming * slopes[channel]
                sums[row, channel] += np.float32(0) if value > 0 else incoming * value


def backward(gradient: Tensor, x: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x (N, C, H, W), contiguous or with channels last, and of its slopes (1,) or (C,), float32."""
    count, channels, height, width = x.shape
    channels_last = not x.is_contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    gradient, x = gradient.contiguous(memory_format=layout), x.detach()
    of_x = torch.empty_like(x, memory_format=layout)

    if channels_last and len(slopes) > 1:
        loop, rows, shape = _slope_per_channel, count * height, (count * height, width, channels)
        row_slopes, sums = slopes, x.new_zeros(rows, channels)
    else:
        loop, rows = _one_slope, count * (height if channels_last else channels)
        shape = (rows, x.numel() // rows)
        row_slopes, sums = slopes.repeat(rows // len(slopes)), x.new_empty(rows)
    memory = [(t.permute(0, 2, 3, 1) if channels_last else t).reshape(shape).numpy() for t in (gradient, x, of_x)]
    parts = max(1, min(torch.get_num_threads(), rows, x.numel() // _GRAIN))

    def run(part: int) -> None:
        start, stop = rows * part // parts, rows * (part + 1) // parts
        loop(memory[0], memory[1], row_slopes.detach().numpy(), memory[2], sums.numpy(), start, stop)

    in_threads(run, parts)
    return of_x, sums.view(-1, len(slopes)).sum(0, dtype=torch.float64).float()
