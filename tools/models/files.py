"""GGUF files: the text model (`gemma4`), the projector (`gemma4v`), and what can be read back from a text model.

Keys, tensor names, shapes and types are those of llama.cpp's convert_hf_to_gguf.py at b11434.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from numpy.typing import NDArray

from tools.models.shape import Attention, TextShape
from tools.models.tokenizer import Tokenizer
from tools.models.vision import VisionTower

__all__ = ["FileType", "TensorSpec", "read_template", "read_tokenizer", "text_tensors", "write_projector", "write_text"]

FileType = Literal["f16", "q8_0"]
Values = NDArray[Any]

_FILE_TYPES = {"f16": 1, "q8_0": 7}  # llama_ftype
_SPECIAL_IDS = {"bos": 2, "eos": 106, "unknown": 3, "padding": 0, "mask": 4}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the text model, in numpy's order of dimensions. Matrices are stored in the file's type, the rest as f32."""

    name: str
    shape: tuple[int, ...]
    matrix: bool


def text_tensors(shape: TextShape, vocabulary: int) -> Iterator[TensorSpec]:
    """Every tensor of a text model, in the order of the file."""
    width = shape.embedding
    yield TensorSpec("token_embd.weight", (vocabulary, width), True)
    yield TensorSpec("output_norm.weight", (width,), False)
    yield TensorSpec("rope_freqs.weight", (shape.full_head // 2,), False)
    for index, kind in enumerate(shape.layers):
        for name, dimensions in _layer_tensors(shape, kind):
            matrix = len(dimensions) > 1 and name != "ffn_gate_inp.weight"  # the router stays f32
            yield TensorSpec(f"blk.{index}.{name}", dimensions, matrix)


def _layer_tensors(shape: TextShape, kind: Attention) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, head = shape.embedding, shape.head(kind)
    queries, keys = shape.heads * head, shape.kv_heads(kind) * head
    for name in (
        "attn_norm",
        "post_attention_norm",
        "ffn_norm",
        "post_ffw_norm",
        "post_ffw_norm_1",
        "pre_ffw_norm_2",
        "post_ffw_norm_2",
    ):
        yield f"{name}.weight", (width,)
    yield "attn_q_norm.weight", (head,)
    yield "attn_k_norm.weight", (head,)
    yield "layer_output_scale.weight", (1,)
    yield "attn_q.weight", (queries, width)
    yield "attn_k.weight", (keys, width)
    if kind == "sliding":
        yield "attn_v.weight", (keys, width)
    yield "attn_output.weight", (width, queries)
    yield "ffn_gate.weight", (shape.feed_forward, width)
    yield "ffn_up.weight", (shape.feed_forward, width)
    yield "ffn_down.weight", (width, shape.feed_forward)
    yield "ffn_gate_up_exps.weight", (shape.experts, 2 * shape.expert_feed_forward, width)  # gate half first
    yield "ffn_down_exps.weight", (shape.experts, width, shape.expert_feed_forward)
    yield "ffn_gate_inp.weight", (shape.experts, width)
    yield "ffn_gate_inp.scale", (width,)
    yield "ffn_down_exps.scale", (shape.experts,)


def rope_frequency_factors(shape: TextShape) -> Values:
    """Gemma 4 rotates only part of a full layer's head: the factor 1e30 stops the other pairs."""
    pairs = shape.full_head // 2
    rotated = int(shape.full_head * shape.rotary_part_full / 2)
    return np.array([1.0] * rotated + [1e30] * (pairs - rotated), dtype=np.float32)


def write_text(
    path: Path,
    shape: TextShape,
    tokenizer: Tokenizer,
    template: str,
    values: Callable[[TensorSpec], Values],
    file_type: FileType,
    name: str,
) -> None:
    """Writes a text model. `values` gives one tensor at a time, so that a large model needs no large memory."""
    writer = GGUFWriter(path, "gemma4")
    _write_metadata(writer, shape, file_type, name)
    _write_tokenizer(writer, tokenizer, template)
    specs = list(text_tensors(shape, len(tokenizer)))
    for spec in specs:
        stored = _storage(spec, file_type)
        if stored is GGMLQuantizationType.Q8_0:
            row = gguf.quants.quant_shape_to_byte_shape(spec.shape, stored)
            writer.add_tensor_info(spec.name, row, np.dtype(np.uint8), int(np.prod(row)), raw_dtype=stored)
        else:
            dtype: np.dtype[Any] = np.dtype(np.float16 if stored is GGMLQuantizationType.F16 else np.float32)
            writer.add_tensor_info(spec.name, spec.shape, dtype, int(np.prod(spec.shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for spec in specs:
        data = rope_frequency_factors(shape) if spec.name == "rope_freqs.weight" else values(spec)
        writer.write_tensor_data(_encode(data.reshape(spec.shape), _storage(spec, file_type)))
    writer.close()


def _storage(spec: TensorSpec, file_type: FileType) -> GGMLQuantizationType:
    if not spec.matrix:
        return GGMLQuantizationType.F32
    return GGMLQuantizationType.Q8_0 if file_type == "q8_0" else GGMLQuantizationType.F16


def _encode(data: Values, stored: GGMLQuantizationType) -> Values:
    return np.ascontiguousarray(gguf.quants.quantize(np.ascontiguousarray(data, dtype=np.float32), stored))


def _write_metadata(writer: GGUFWriter, shape: TextShape, file_type: FileType, name: str) -> None:
    sliding = [kind == "sliding" for kind in shape.layers]
    writer.add_type("model")
    writer.add_name(name)
    writer.add_size_label("stand-in")
    writer.add_file_type(_FILE_TYPES[file_type])
    writer.add_quantization_version(2)
    writer.add_block_count(len(shape.layers))
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv([shape.kv_heads(kind) for kind in shape.layers])
    writer.add_rope_freq_base(shape.rope_base_full)
    writer.add_rope_freq_base_swa(shape.rope_base_sliding)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_expert_count(shape.experts)
    writer.add_expert_used_count(shape.experts_used)
    writer.add_expert_feed_forward_length(shape.expert_feed_forward)
    writer.add_key_length(shape.full_head)
    writer.add_value_length(shape.full_head)
    writer.add_key_length_swa(shape.sliding_head)
    writer.add_value_length_swa(shape.sliding_head)
    writer.add_final_logit_softcapping(shape.logit_softcap)
    writer.add_sliding_window(shape.window)
    writer.add_sliding_window_pattern(sliding)
    writer.add_shared_kv_layers(0)
    writer.add_embedding_length_per_layer_input(0)  # required, though Gemma-4-26B-A4B has none
    writer.add_rope_dimension_count(shape.full_head)
    writer.add_rope_dimension_count_swa(shape.sliding_head)


def _write_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, template: str) -> None:
    writer.add_tokenizer_model("gemma4")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_scores([-1000.0] * len(tokenizer))
    writer.add_token_types([int(kind) for kind in tokenizer.types])
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    for name, token in _SPECIAL_IDS.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(True)
    writer.add_chat_template(template)


def write_projector(path: Path, tower: VisionTower, text_embedding: int) -> None:
    """Writes the `mmproj` file (f16) for a text model with embeddings of this width."""
    shape = tower.shape
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name("tiny-gemma4v")
    writer.add_file_type(_FILE_TYPES["f16"])
    writer.add_clip_has_vision_encoder(True)
    writer.add_string("clip.vision.projector_type", "gemma4v")
    writer.add_vision_image_size(224)  # required, unused: images keep their shape
    writer.add_vision_patch_size(shape.patch)
    writer.add_vision_embedding_length(shape.embedding)
    writer.add_vision_feed_forward_length(shape.feed_forward)
    writer.add_vision_block_count(shape.layers)
    writer.add_vision_head_count(shape.heads)
    writer.add_vision_projection_dim(text_embedding)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.0, 0.0, 0.0])
    writer.add_vision_image_std([1.0, 1.0, 1.0])
    writer.add_vision_use_gelu(True)
    for name, data, matrix in tower.tensors():
        writer.add_tensor(name, np.ascontiguousarray(data, dtype=np.float16 if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a text model that `write_text` wrote."""
    merges = _field(path, "tokenizer.ggml.merges")
    return Tokenizer((left, right) for left, right in (merge.split(" ") for merge in merges))


def read_template(path: Path) -> str:
    """The chat template inside a GGUF file."""
    return str(_field(path, "tokenizer.chat_template"))


def _field(path: Path, key: str) -> Any:
    found = GGUFReader(path).get_field(key)
    if found is None:
        raise ValueError(
            f"{path} has no {key}: expected a text model with a tokenizer: write it with `python -m tools.models`"
        )
    return found.contents()
