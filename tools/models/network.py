"""Gemma-4's text model in PyTorch, as llama.cpp's src/models/gemma4.cpp computes it (b11434). Only training needs it.

Semantics worth knowing: norms have no +1; attention scores are not scaled (the query and key norms do that); values are
normed without a weight; image embeddings are not scaled as text embeddings are, and see each other both ways within an image.
Experts are computed densely and gated by the renormalised top-k weights: the same result, faster at this size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tools.models.files import TensorSpec, text_tensors
from tools.models.shape import Attention, TextShape

__all__ = ["Network", "Visibility"]

Rotation = tuple[Tensor, Tensor]
Visibility = dict[Attention, Tensor]


def _norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    return functional.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def _rotation(shape: TextShape, kind: Attention, positions: Tensor) -> Rotation:
    head = shape.head(kind)
    base = shape.rope_base_full if kind == "full" else shape.rope_base_sliding
    rotated = int(head * shape.rotary_part_full / 2) if kind == "full" else head // 2
    frequencies = torch.zeros(head // 2)
    frequencies[:rotated] = base ** (-2.0 * torch.arange(rotated) / head)
    angles = positions[..., None].float() * frequencies
    return angles.cos()[:, :, None], angles.sin()[:, :, None]


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    cos, sin = rotation
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Network:
    """The text model for one shape and vocabulary size. `weights` are held under their names in the GGUF file."""

    def __init__(self, shape: TextShape, vocabulary: int) -> None:
        self.shape = shape
        self.weights = {
            spec.name: _initial(spec) for spec in text_tensors(shape, vocabulary) if spec.name != "rope_freqs.weight"
        }

    def parameters(self) -> list[Tensor]:
        """The weights that training changes."""
        return [weight for weight in self.weights.values() if weight.requires_grad]

    def tensor(self, spec: TensorSpec) -> NDArray[np.float32]:
        """One weight as it goes into the file."""
        return np.asarray(self.weights[spec.name].detach().numpy(), dtype=np.float32)

    def hidden(
        self, ids: Tensor, positions: Tensor, visible: Visibility | None, soft: Tensor, image: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Final hidden states and each layer's router probabilities. `soft` replaces the embedding where `image` is not 0.

        `visible` None stands for plain causal attention, right as long as no sequence outgrows the sliding window.
        """
        embedded = self.weights["token_embd.weight"][ids] * self.shape.embedding**0.5
        x = torch.where(image[..., None] > 0, soft, embedded)
        rotations = {kind: _rotation(self.shape, kind, positions) for kind in set(self.shape.layers)}
        routed = []
        for index, kind in enumerate(self.shape.layers):
            layer = _Layer(self.shape, kind, self.weights, f"blk.{index}.")
            x, probabilities = layer.forward(x, rotations[kind], None if visible is None else visible[kind])
            routed.append(probabilities)
        return _norm(x, self.weights["output_norm.weight"]), routed

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token (embeddings are tied)."""
        cap = self.shape.logit_softcap
        return cap * torch.tanh(hidden @ self.weights["token_embd.weight"].T / cap)


@dataclass(frozen=True)
class _Layer:
    """One layer: its kind and where its weights are."""

    shape: TextShape
    kind: Attention
    weights: dict[str, Tensor]
    prefix: str

    def _w(self, name: str) -> Tensor:
        return self.weights[f"{self.prefix}{name}"]

    def forward(self, x: Tensor, rotation: Rotation, visible: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer's output and its router's probabilities."""
        attended = self._attention(_norm(x, self._w("attn_norm.weight")), rotation, visible)
        x = x + _norm(attended, self._w("post_attention_norm.weight"))
        h = _norm(x, self._w("ffn_norm.weight"))
        gate, up = h @ self._w("ffn_gate.weight").T, h @ self._w("ffn_up.weight").T
        dense = functional.gelu(gate, approximate="tanh") * up @ self._w("ffn_down.weight").T
        experts, probabilities = self._experts(x)
        h = _norm(dense, self._w("post_ffw_norm_1.weight")) + _norm(experts, self._w("post_ffw_norm_2.weight"))
        return (x + _norm(h, self._w("post_ffw_norm.weight"))) * self._w("layer_output_scale.weight"), probabilities

    def _attention(self, h: Tensor, rotation: Rotation, visible: Tensor | None) -> Tensor:
        batch, length, _ = h.shape
        head, heads, kv_heads = self.shape.head(self.kind), self.shape.heads, self.shape.kv_heads(self.kind)
        queries = (h @ self._w("attn_q.weight").T).view(batch, length, heads, head)
        keys = (h @ self._w("attn_k.weight").T).view(batch, length, kv_heads, head)
        values = keys if self.kind == "full" else (h @ self._w("attn_v.weight").T).view(batch, length, kv_heads, head)
        q = _rotate(_norm(queries, self._w("attn_q_norm.weight")), rotation)
        k = _rotate(_norm(keys, self._w("attn_k_norm.weight")), rotation)
        q, k, v = (t.transpose(1, 2) for t in (q, k, _norm(values)))
        k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None, scale=1.0)
        return out.transpose(1, 2).reshape(batch, length, -1) @ self._w("attn_output.weight").T

    def _experts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, width = x.shape
        experts, inner = self.shape.experts, self.shape.expert_feed_forward
        routed = (_norm(x) * width**-0.5 * self._w("ffn_gate_inp.scale")) @ self._w("ffn_gate_inp.weight").T
        probabilities = torch.softmax(routed, -1)
        weights, chosen = probabilities.topk(self.shape.experts_used, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        gate = torch.zeros_like(probabilities).scatter(-1, chosen, weights) * self._w("ffn_down_exps.scale")
        h = _norm(x, self._w("pre_ffw_norm_2.weight")) @ self._w("ffn_gate_up_exps.weight").view(-1, width).T
        h = h.view(batch, length, experts, 2, inner)
        h = functional.gelu(h[..., 0, :], approximate="tanh") * h[..., 1, :] * gate[..., None]
        down = self._w("ffn_down_exps.weight").permute(0, 2, 1).reshape(experts * inner, width)
        return h.reshape(batch, length, experts * inner) @ down, probabilities


def _initial(spec: TensorSpec) -> Tensor:
    name = spec.name.partition(".")[2].partition(".")[2] or spec.name  # without blk.N.
    if name in ("attn_q_norm.weight", "attn_k_norm.weight"):
        value = torch.full(
            spec.shape, spec.shape[0] ** -0.25
        )  # scores are not scaled: this is their usual 1/sqrt(head)
    elif len(spec.shape) == 1:
        value = torch.ones(spec.shape)
    else:
        value = torch.randn(spec.shape) * (0.3 if name == "ffn_gate_inp.weight" else spec.shape[-1] ** -0.5)
    return value.requires_grad_(name != "layer_output_scale.weight")
