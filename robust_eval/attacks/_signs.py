"""Random signs for SPSA from a counter-based generator: the same bits on every device.

The generator is Philox4x64-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) with
(seed, image) as key and the step in the counter. The directions of an image depend neither on the other
images of its batch nor on the device. On a CPU numpy computes them; on another device they are computed
there, because copying them from the host takes longer than the queries of a small network.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW = 0xFFFFFFFF
_WORDS_PER_BLOCK, _BYTES_PER_WORD = 4, 8


def directions(seed: int, images_N: Tensor, step: int, pairs: int, size: int) -> Tensor:
    """Independent random signs of each image, shape (N, pairs, size), int8 in {-1, +1}.

    ``images_N``: the numbers of the images, int64, on the device of the result. ``size``: values of an image.
    """
    if images_N.device.type != "cpu":
        return on_device(seed, images_N, step, pairs, size)
    row = -(-size // 8)
    streams = (np.random.Philox(key=[seed, image], counter=[0, 0, 0, step]) for image in images_N.tolist())
    content = [np.random.Generator(stream).bytes(pairs * row) for stream in streams]
    packed = np.frombuffer(b"".join(content), dtype=np.uint8).reshape(-1, pairs, row)
    return torch.from_numpy(np.unpackbits(packed, axis=2, count=size).astype(np.int8) * 2 - 1)


def on_device(seed: int, images_N: Tensor, step: int, pairs: int, size: int) -> Tensor:
    """The same as :func:`directions`, computed by torch on the device of ``images_N``."""
    row = -(-size // 8)
    blocks = -(-pairs * row // (_WORDS_PER_BLOCK * _BYTES_PER_WORD))
    # Little-endian, as are all devices of torch.
    bytes_NB = philox(seed, images_N, step, blocks).view(torch.uint8)
    packed = bytes_NB[:, : pairs * row].unflatten(1, (pairs, row))
    places = torch.arange(7, -1, -1, device=images_N.device, dtype=torch.uint8)
    bits = packed[..., None].bitwise_right_shift(places).bitwise_and(1).flatten(2)
    signs: Tensor = bits[..., :size].to(torch.int8) * 2 - 1
    return signs


def philox(seed: int, images_N: Tensor, step: int, blocks: int) -> Tensor:
    """The first words of each image's stream, shape (N, 4 * blocks), int64 with the bits of uint64.

    Equals ``np.random.Philox(key=[seed, image], counter=[0, 0, 0, step]).random_raw(4 * blocks)``, which
    increases the counter before each block of four words.
    """
    shape = (len(images_N), blocks)
    counter = torch.arange(1, blocks + 1, device=images_N.device).expand(shape)
    zero = torch.zeros_like(counter)
    words = (counter, zero, zero, torch.full_like(counter, step))
    first, second = seed, images_N[:, None]
    for _ in range(_ROUNDS):
        high_0, low_0 = _multiply(_MULTIPLIERS[0], words[0])
        high_1, low_1 = _multiply(_MULTIPLIERS[1], words[2])
        words = (high_1 ^ words[1] ^ _signed(first), low_1, high_0 ^ words[3] ^ second, low_0)
        first, second = first + _KEY_STEPS[0], second + _signed(_KEY_STEPS[1])
    return torch.stack(words, dim=2).flatten(1)


def _multiply(factor: int, words: Tensor) -> tuple[Tensor, Tensor]:
    """The high and the low 64 bits of the product of unsigned numbers; int64 multiplication wraps around."""
    factor_low, factor_high = factor & _LOW, factor >> 32
    low, high = words & _LOW, _upper(words)
    low_high, high_low = factor_low * high, factor_high * low
    carry = _upper(factor_low * low) + (low_high & _LOW) + (high_low & _LOW)
    upper = factor_high * high + _upper(low_high) + _upper(high_low) + _upper(carry)
    return upper, _signed(factor) * words


def _upper(words: Tensor) -> Tensor:
    """The upper 32 bits, as a logical shift; torch's shift of int64 repeats the sign."""
    return (words >> 32) & _LOW


def _signed(word: int) -> int:
    """The int64 with the lowest 64 bits of a number."""
    word &= 2**64 - 1
    return word - 2**64 if word >= 2**63 else word
