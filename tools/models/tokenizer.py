"""A small Gemma-4-style tokenizer: byte-pair merges over text whose spaces are `▁`, with single bytes as fall-back.

The first 107 ids keep Gemma 4's layout. llama.cpp (`tokenizer.ggml.model = "gemma4"`) splits text at newline runs only and
then applies the merges, so merges are learnt within words and numbers: the same word is the same token wherever it stands.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

__all__ = ["SPECIAL", "TokenType", "Tokenizer", "learn_merges"]


class TokenType(enum.IntEnum):
    """Token types of the GGUF format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    BYTE = 6


SPECIAL = {
    0: "<pad>",
    1: "<eos>",
    2: "<bos>",
    3: "<unk>",
    4: "<mask>",
    46: "<|tool>",
    47: "<tool|>",
    48: "<|tool_call>",
    49: "<tool_call|>",
    50: "<|tool_response>",
    51: "<tool_response|>",
    52: '<|"|>',
    98: "<|think|>",
    100: "<|channel>",
    101: "<channel|>",
    105: "<|turn>",
    106: "<turn|>",
}
"""Ids that Gemma 4 fixes."""

_MEDIA = (
    "<|image>",
    "<image|>",
    "<|image|>",
    "<|audio>",
    "<audio|>",
    "<|audio|>",
    "<|video|>",
)  # far away in the real one

# User-defined instead of control, as llama.cpp's conversion/gemma.py writes them: the chat parser never sees control tokens.
_PARSED = {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'}

_NEWLINE_RUNS = tuple("\n" * n for n in range(1, 9))
_WORD = re.compile(r"▁?[A-Za-z_]+|[0-9]+")
_WORD_OR_CHARACTER = re.compile(r"▁?[A-Za-z_]+|[0-9]+|.", re.DOTALL)


class Tokenizer:
    """Text to ids and the vocabulary that goes into the GGUF file, for one list of merges in order of rank."""

    def __init__(self, merges: Iterable[tuple[str, str]]) -> None:
        self.merges = [(left, right) for left, right in merges]
        self.tokens, self.types = self._vocabulary()
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self._ranks = {merge: rank for rank, merge in enumerate(self.merges)}
        self._words: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def _vocabulary(self) -> tuple[list[str], list[TokenType]]:
        entries: dict[str, TokenType] = {}

        def special(token: str) -> None:
            known = TokenType.USER_DEFINED if token in _PARSED else TokenType.CONTROL
            entries[token] = TokenType.UNKNOWN if token == SPECIAL[3] else known

        for i in range(max(SPECIAL) + 1):
            special(SPECIAL.get(i, f"<unused{i}>"))
        entries.update(dict.fromkeys(_NEWLINE_RUNS, TokenType.NORMAL))
        entries.update({f"<0x{byte:02X}>": TokenType.BYTE for byte in range(256)})
        for token in _MEDIA:
            special(token)
        entries.update(dict.fromkeys(["▁", *map(chr, range(33, 127))], TokenType.NORMAL))
        for left, right in self.merges:
            entries.setdefault(left + right, TokenType.NORMAL)
        while len(entries) % 32:  # rows of the embedding matrix: a multiple of 32 suits every quantisation
            special(f"<unused{len(entries)}>")
        return list(entries), list(entries.values())

    @cached_property
    def _split_special(self) -> re.Pattern[str]:
        marked = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
        special = [token for token, kind in zip(self.tokens, self.types, strict=True) if kind in marked]
        return re.compile("(" + "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)) + ")")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, special tokens recognised, no `<bos>` added."""
        out: list[int] = []
        for index, fragment in enumerate(self._split_special.split(text)):
            if index % 2:
                out.append(self.ids[fragment])
                continue
            for segment in re.findall(r"[^\n]+|\n+", fragment.replace(" ", "▁")):
                if segment[0] != "\n":
                    for word in _WORD_OR_CHARACTER.findall(segment):
                        out += self._encode_word(word)
                elif segment in self.ids:
                    out.append(self.ids[segment])
                else:
                    out += [self.ids["\n"]] * len(segment)
        return out

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._words:
            parts = list(word)
            while len(parts) > 1:
                ranks = [self._ranks.get(pair, len(self._ranks)) for pair in pairwise(parts)]
                best = min(range(len(ranks)), key=ranks.__getitem__)
                if ranks[best] == len(self._ranks):
                    break
                parts[best : best + 2] = [parts[best] + parts[best + 1]]
            self._words[word] = [i for part in parts for i in self._ids_of(part)]
        return self._words[word]

    def _ids_of(self, part: str) -> Sequence[int]:
        if part in self.ids:
            return [self.ids[part]]
        return [self.ids[f"<0x{byte:02X}>"] for byte in part.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (bytes of the fall-back stay spelt out)."""
        return "".join(self.tokens[i] for i in ids).replace("▁", " ")

    def words(self, text: str) -> list[str]:
        """The words of `text` that merges may be learnt in: letters with the space before them, or digits."""
        plain = self._split_special.split(text)[::2]
        return [word for fragment in plain for word in _WORD.findall(fragment.replace(" ", "▁"))]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Up to `count` byte-pair merges over `words`, most frequent first; ties are broken by the alphabet."""
    split = {word: list(word) for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        (left, right), frequency = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        if frequency < 2:
            break
        merges.append((left, right))
        for parts in split.values():
            i = 0
            while i < len(parts) - 1:
                if parts[i] == left and parts[i + 1] == right:
                    parts[i : i + 2] = [left + right]
                i += 1
    return merges
