"""Hyper-parameters of stand-in models, in Gemma-4-26B-A4B's own proportions where the engine cares about them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["TINY", "TINY_VISION", "Attention", "TextShape", "VisionShape", "parse_size", "shape_of_size"]

Attention = Literal["sliding", "full"]


@dataclass(frozen=True)
class TextShape:
    """A Gemma-4 text model with mixture-of-experts layers.

    What llama.cpp b11434 asks for: the last layer is `full`; head sizes divide by 32 (quantised KV cache); every matrix row
    divides by 32 (q8_0). Full layers have no `attn_v`: their values are their keys, as in Gemma-4-26B-A4B.
    """

    embedding: int
    layers: tuple[Attention, ...]
    heads: int
    sliding_head: int
    sliding_kv_heads: int
    full_head: int
    full_kv_heads: int
    feed_forward: int
    experts: int
    experts_used: int
    expert_feed_forward: int
    window: int = 1024
    context: int = 131072
    rope_base_full: float = 1e6
    rope_base_sliding: float = 1e4
    rotary_part_full: float = 0.25
    norm_epsilon: float = 1e-6
    logit_softcap: float = 30.0

    def head(self, kind: Attention) -> int:
        """Size of one attention head in a layer of this kind."""
        return self.sliding_head if kind == "sliding" else self.full_head

    def kv_heads(self, kind: Attention) -> int:
        """Number of key/value heads in a layer of this kind."""
        return self.sliding_kv_heads if kind == "sliding" else self.full_kv_heads


@dataclass(frozen=True)
class VisionShape:
    """A `gemma4v` vision tower: images are cut in `patch` pixel squares, `positions` of them at most in a row."""

    embedding: int = 64
    heads: int = 2
    layers: int = 2
    feed_forward: int = 128
    patch: int = 16
    positions: int = 1024

    @property
    def head(self) -> int:
        """Size of one attention head."""
        return self.embedding // self.heads


TINY = TextShape(
    embedding=128,
    layers=("sliding", "full", "sliding", "full"),
    heads=4,
    sliding_head=64,
    sliding_kv_heads=2,
    full_head=128,
    full_kv_heads=1,
    feed_forward=128,
    experts=8,
    experts_used=2,
    expert_feed_forward=32,
)
"""The trained stand-in: 1.3 million parameters."""

TINY_VISION = VisionShape()

_UNITS = {"M": 10**6, "G": 10**9}
_SMALLEST = 25 * 10**6
_LARGEST_BLOCK = 600 * 10**6  # bytes of six layers with 128 experts


def parse_size(text: str) -> int:
    """Bytes of a size like `300M` or `1.5G` (powers of ten). Raises ValueError for anything else or less than 25M."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([MG])", text)
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < _SMALLEST:
        raise ValueError(f"{text!r} is not a model size: expected at least 25M, for example 300M or 1.5G")
    return size


def shape_of_size(size: int) -> TextShape:
    """The shape of a random f16 model whose file is about `size` bytes: the experts take up what the rest leaves.

    Six layers a block, five sliding and one full as in Gemma 4; more blocks rather than more than 128 experts a layer.
    """
    blocks = -(-size // _LARGEST_BLOCK)
    embedding, expert_feed_forward = 512, 256
    fixed = 10 * 10**6  # attention and dense MLPs of one block, in bytes: close enough for a stand-in
    expert = 6 * 3 * embedding * expert_feed_forward * 2
    experts = max(2, round((size / blocks - fixed) / expert))
    block: tuple[Attention, ...] = ("sliding", "sliding", "sliding", "sliding", "sliding", "full")
    return TextShape(
        embedding=embedding,
        layers=block * blocks,
        heads=4,
        sliding_head=64,
        sliding_kv_heads=2,
        full_head=128,
        full_kv_heads=1,
        feed_forward=256,
        experts=experts,
        experts_used=2,
        expert_feed_forward=expert_feed_forward,
    )
