"""Text models with random weights: any size, in seconds, for tests of loading, memory mapping and downloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tools.models.files import TensorSpec, Values, write_projector, write_text
from tools.models.shape import TINY_VISION, shape_of_size
from tools.models.tokenizer import Tokenizer
from tools.models.vision import VisionTower

__all__ = ["write_random"]

_POOL = (
    1 << 22
)  # random numbers drawn once; every matrix is cut out of them, so a large model takes no longer than its disk


def write_random(
    directory: Path, size: int, label: str, tokenizer: Tokenizer, template: str, seed: int = 0
) -> list[Path]:
    """Writes `random-gemma4-<label>-F16.gguf` of about `size` bytes and a projector that fits it; returns both paths."""
    shape = shape_of_size(size)
    random = np.random.default_rng(seed)
    pool = random.standard_normal(_POOL, dtype=np.float32)

    def values(spec: TensorSpec) -> Values:
        if len(spec.shape) == 1:
            norm = spec.shape[0] ** -0.25 if spec.name.endswith(("attn_q_norm.weight", "attn_k_norm.weight")) else 1.0
            return np.full(spec.shape, norm, dtype=np.float32)
        count = int(np.prod(spec.shape))
        start = int(random.integers(_POOL))
        drawn: Values = np.resize(np.roll(pool, -start), count).reshape(spec.shape)
        return drawn * np.float32(spec.shape[-1] ** -0.5)

    directory.mkdir(parents=True, exist_ok=True)
    text, projector = directory / f"random-gemma4-{label}-F16.gguf", directory / "mmproj-F16.gguf"
    write_text(text, shape, tokenizer, template, values, "f16", f"random-gemma4-{label}")
    write_projector(projector, VisionTower(TINY_VISION, shape.embedding), shape.embedding)
    return [text, projector]
