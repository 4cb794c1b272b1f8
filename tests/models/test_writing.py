"""Stand-in models of any size: what is written is a Gemma 4 that the real engine loads."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

import checks
from tests.stand_in import KEY, serving
from tools.models import carried
from tools.models.__main__ import main
from tools.models.files import read_template, read_tokenizer
from tools.models.shape import TINY, TINY_VISION, parse_size, shape_of_size
from tools.models.tokenizer import SPECIAL, Tokenizer, learn_merges
from tools.models.vision import COLORS, VisionTower


@pytest.mark.parametrize(("text", "size"), [("300M", 300_000_000), ("1.5G", 1_500_000_000), ("25M", 25_000_000)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "300", "300MB", "1T", "-5M", "0G", "24M", "M"])
def test_what_is_no_size_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["random", f"--size={text}", str(tmp_path / "out")]) == 1
    assert re.fullmatch(r"no model written: .*expected at least 25M.*\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@given(st.integers(min_value=25 * 10**6, max_value=10**11))
def test_shapes_of_every_size_suit_the_engine(size: int) -> None:
    shape = shape_of_size(size)
    assert shape.layers[-1] == "full"
    assert shape.experts_used <= shape.experts <= 128
    rows = (shape.embedding, shape.feed_forward, shape.expert_feed_forward, shape.full_head, shape.sliding_head)
    assert all(row % 32 == 0 for row in rows)


def test_a_random_model_has_its_size_and_is_the_same_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = []
    for run in ("one", "two"):
        assert main(["random", "--size", "25M", str(tmp_path / run)]) == 0
        listed.append([line.split()[0] for line in capsys.readouterr().out.splitlines()[:2]])
    assert listed[0] == listed[1]
    weights = tmp_path / "one" / "random-gemma4-25M-F16.gguf"
    assert 22_000_000 < weights.stat().st_size < 28_000_000


def test_a_random_model_says_what_it_is(tmp_path: Path) -> None:
    main(["random", "--size", "25M", str(tmp_path)])
    text = GGUFReader(tmp_path / "random-gemma4-25M-F16.gguf")
    projector = GGUFReader(tmp_path / "mmproj-F16.gguf")
    assert _value(text, "general.architecture") == "gemma4"
    assert _value(projector, "clip.vision.projector_type") == "gemma4v"
    assert _value(projector, "clip.vision.projection_dim") == _value(text, "gemma4.embedding_length")
    assert read_template(tmp_path / "random-gemma4-25M-F16.gguf") == read_template(carried.carried_weights())


def test_a_model_without_a_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    main(["random", "--size", "25M", str(tmp_path)])
    with pytest.raises(ValueError, match=r"has no tokenizer\.ggml\.merges: expected"):
        read_tokenizer(tmp_path / "mmproj-F16.gguf")


def _value(reader: GGUFReader, key: str) -> object:
    field = reader.get_field(key)
    assert field is not None
    return field.contents()


@pytest.mark.local
def test_a_random_model_is_served_from_memory(llama_server_build: Path, tmp_path: Path) -> None:
    main(["random", "--size", "30M", str(tmp_path)])
    weights, projector = tmp_path / "random-gemma4-30M-F16.gguf", tmp_path / "mmproj-F16.gguf"
    with serving(llama_server_build, weights, projector, tmp_path / "log") as (url, pid):
        with checks.Endpoint(url, KEY) as endpoint:
            answer = endpoint.send("POST", "/completion", {"prompt": "Hello", "n_predict": 8}).ok()
        assert answer.at(int, "tokens_predicted") > 0
        assert ".gguf" not in Path(f"/proc/{pid}/maps").read_text()


# ---- parts


def test_special_tokens_keep_gemmas_ids() -> None:
    tokenizer = Tokenizer([("t", "h"), ("th", "e")])
    assert all(tokenizer.tokens[i] == token for i, token in SPECIAL.items())
    assert len(tokenizer) % 32 == 0
    assert len(tokenizer.ids) == len(tokenizer)


@given(st.text())
def test_every_text_can_be_encoded(text: str) -> None:
    tokenizer = Tokenizer([("t", "h"), ("th", "e"), ("▁", "the")])
    ids = tokenizer.encode(text)
    assert all(0 <= i < len(tokenizer) for i in ids)
    if text.isascii() and text.isprintable():
        assert tokenizer.decode(ids) == text


def test_merges_are_learnt_most_frequent_first() -> None:
    merges = learn_merges(Counter({"▁the": 5, "▁then": 3, "xyz": 1}), 10)
    assert Tokenizer(merges).encode(" the then") == [Tokenizer(merges).ids[token] for token in ("▁the", "▁then")]
    assert ("x", "y") not in merges


def test_words_are_the_same_token_wherever_they_stand() -> None:
    tokenizer = read_tokenizer(carried.carried_weights())
    (paris,) = tokenizer.encode(" Paris")
    for text in (" Paris?", " Paris.", " Paris,", ' Paris"', " Paris<turn|>"):
        assert tokenizer.encode(text)[0] == paris


@pytest.mark.parametrize("color", COLORS)
def test_the_projector_gives_what_the_text_model_was_taught(color: str) -> None:
    """The tower, computed from its tensors as llama.cpp does: patches, positions, norm (branches add nothing), projection."""
    tower = VisionTower(TINY_VISION, TINY.embedding)
    tensors = {name: data for name, data, _ in tower.tensors()}
    side = TINY_VISION.patch
    pixels = np.ones((3, side, side)) * (2 * np.array(COLORS[color])[:, None, None] - 1)
    hidden = np.einsum("dcij,cij->d", tensors["v.patch_embd.weight"], pixels)
    hidden = hidden + tensors["v.position_embd.weight"][0, 3] + tensors["v.position_embd.weight"][1, 5]
    assert not any(tensors[f"v.blk.{i}.{name}.weight"].any() for i in (0, 1) for name in ("attn_out", "ffn_down"))
    hidden = hidden / np.sqrt((hidden**2).mean())
    assert np.allclose(tensors["mm.input_projection.weight"] @ hidden, tower.embed(COLORS[color]), atol=1e-3)
