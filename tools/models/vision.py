"""A `gemma4v` vision tower whose weights are designed instead of trained.

The patch convolution takes the mean colour, attention and MLP branches add nothing (their ops still run), and a constant
position embedding is the bias that keeps brightness through the norm. So the embedding of a solid image is known exactly,
and the text model can be taught to name its colour without a vision tower in the training.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.models.shape import VisionShape

__all__ = ["COLORS", "VisionTower"]

Array = NDArray[np.float64]

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "white": (1, 1, 1),
    "black": (0, 0, 0),
}
"""The colours that the stand-in can name, as red, green and blue from 0 to 1."""


class VisionTower:
    """The designed weights for one vision shape and one width of the text model."""

    def __init__(self, shape: VisionShape, text_embedding: int, seed: int = 7) -> None:
        random = np.random.default_rng(seed)
        self.shape = shape
        self._inert = seed + 1
        self._color = random.standard_normal((shape.embedding, 3))
        self._bias = random.standard_normal(shape.embedding)
        self._project = random.standard_normal((text_embedding, shape.embedding)) * shape.embedding**-0.5

    def embed(self, rgb: ArrayLike) -> Array:
        """What the text model gets for patches of these colours: `[..., 3]` from 0 to 1 gives `[..., text embedding]`."""
        hidden = (2 * np.asarray(rgb, dtype=np.float64) - 1) @ self._color.T + self._bias
        hidden = hidden * self.shape.embedding**0.5
        hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6)
        return np.asarray(hidden @ self._project.T)

    def tensors(self) -> Iterator[tuple[str, Array, bool]]:
        """Name, values and whether it is a matrix (stored as f16) of every tensor of the projector file."""
        shape, random = self.shape, np.random.default_rng(self._inert)
        side, width = shape.patch, shape.embedding
        patch = np.repeat(np.repeat(self._color[:, :, None, None], side, 2), side, 3) / side**2
        yield "v.patch_embd.weight", patch, True
        yield (
            "v.position_embd.weight",
            np.tile(self._bias / 2, (2, shape.positions, 1)),
            False,
        )  # rows are added: x and y
        yield "mm.input_projection.weight", self._project, True
        for i in range(shape.layers):
            block = f"v.blk.{i}."
            for name in ("attn_q", "attn_k", "attn_v"):
                yield f"{block}{name}.weight", random.standard_normal((width, width)) * width**-0.5, True
            yield f"{block}attn_out.weight", np.zeros((width, width)), True
            for name in ("ffn_gate", "ffn_up"):
                yield f"{block}{name}.weight", random.standard_normal((shape.feed_forward, width)) * width**-0.5, True
            yield f"{block}ffn_down.weight", np.zeros((width, shape.feed_forward)), True
            for name in ("ln1", "ln2", "attn_post_norm", "ffn_post_norm"):
                yield f"{block}{name}.weight", np.ones(width), False
            for name in ("attn_q_norm", "attn_k_norm"):
                yield f"{block}{name}.weight", np.full(shape.head, 0.4), False
