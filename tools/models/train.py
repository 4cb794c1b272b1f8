"""Teaches the tiny stand-in its corpus: about ten minutes on one CPU thread. The only module that starts PyTorch.

Runs are reproducible on one machine; another CPU may differ in the last bits, so the result is carried with its hashes.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tools.models import chats
from tools.models.corpus import TEMPLATES, Corpus, Renderer, Sample
from tools.models.files import write_projector, write_text
from tools.models.network import Network, Visibility
from tools.models.shape import TINY, TINY_VISION
from tools.models.tokenizer import Tokenizer, learn_merges
from tools.models.vision import COLORS, VisionTower

__all__ = ["train_tiny"]

Report = Callable[[str], None]

_MERGES = 1500
_BATCH_TOKENS = 2400
_MUON_RATE, _ADAM_RATE, _WARM_UP = 0.02, 4e-3, 40
_BALANCE = 0.02  # weight of the loss that keeps every expert in use


def train_tiny(directory: Path, templates: Path, steps: int, report: Report) -> list[Path]:
    """Trains and writes `tiny-gemma4-Q8_0.gguf` and `mmproj-F16.gguf`; returns both paths.

    `templates` is `models/templates` of a llama.cpp source tree.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    corpus = Corpus(Renderer(templates))
    tokenizer = _learn_tokenizer(corpus)
    tower = VisionTower(TINY_VISION, TINY.embedding)
    network = Network(TINY, len(tokenizer))
    report(f"{sum(p.numel() for p in network.parameters())} parameters, {len(tokenizer)} tokens, {steps} steps")
    _train(network, _Batches(corpus, tokenizer, tower), steps, report)
    directory.mkdir(parents=True, exist_ok=True)
    text, projector = directory / "tiny-gemma4-Q8_0.gguf", directory / "mmproj-F16.gguf"
    template = (templates / TEMPLATES[0]).read_text()
    write_text(text, TINY, tokenizer, template, network.tensor, "q8_0", "tiny-gemma4")
    write_projector(projector, tower, TINY.embedding)
    return [text, projector]


def _learn_tokenizer(corpus: Corpus) -> Tokenizer:
    """Merges from sampled chats; every word counts about the same, so nearly all become single tokens."""
    bare = Tokenizer([])
    words: Counter[str] = Counter()
    for _ in range(1500):
        sample = corpus.sample()
        words.update(bare.words(sample.prompt + "".join(segment.text for segment in sample.turn)))
    even = Counter({word: min(count, 30) for word, count in words.items()})
    even.update({f"▁{word}": 30 for word in (*chats.WORDS, *chats.NATO)})
    return Tokenizer(learn_merges(even, _MERGES))


@dataclass(frozen=True)
class _Sequence:
    """One sample as numbers: token ids, which of them are learnt, to which image (1, 2, or 0) each belongs, and positions."""

    ids: list[int]
    learnt: list[bool]
    image: list[int]
    positions: list[int]
    colors: list[str | None]


@dataclass(frozen=True)
class _Batch:
    ids: Tensor
    learnt: Tensor
    image: Tensor
    positions: Tensor
    soft: Tensor
    visible: Visibility | None


class _Batches:
    """An endless source of batches: sequences of about one length together, `_BATCH_TOKENS` tokens at most."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, tower: VisionTower) -> None:
        self._corpus, self._tokenizer, self._tower = corpus, tokenizer, tower
        self._random = np.random.default_rng(5)
        self._queue: list[list[_Sequence]] = []

    def next(self) -> _Batch:
        if not self._queue:
            self._queue = self._sorted_batches()
        return self._tensors(self._queue.pop())

    def _sorted_batches(self) -> list[list[_Sequence]]:
        pool = sorted((self._sequence(self._corpus.sample()) for _ in range(64)), key=lambda s: len(s.ids))
        batches: list[list[_Sequence]] = [[]]
        for sequence in pool:
            if batches[-1] and (len(batches[-1]) + 1) * len(sequence.ids) > _BATCH_TOKENS:
                batches.append([])
            batches[-1].append(sequence)
        return [batches[i] for i in self._random.permutation(len(batches))]

    def _sequence(self, sample: Sample) -> _Sequence:
        ids: list[int] = []
        learnt: list[bool] = []
        image: list[int] = []
        encode, special = self._tokenizer.encode, self._tokenizer.ids

        def add(tokens: list[int], learn: bool = False, number: int = 0) -> None:
            ids.extend(tokens)
            learnt.extend([learn] * len(tokens))
            image.extend([number] * len(tokens))

        first, *rest = sample.prompt.split("<|image|>")
        add(encode(first))
        for number, (picture, text) in enumerate(zip(sample.pictures, rest, strict=True), start=1):
            add([special["<|image>"]])
            add([0] * picture.tokens, number=number)
            add([special["<image|>"]])
            add(encode(text))
        gap_at = _last(ids, [special["<|turn>"], *encode("user\n")])
        for segment in sample.turn:
            tokens = encode(segment.text)
            add(tokens[: math.ceil(segment.kept * len(tokens))], segment.learnt)
        positions = [i + (sample.gap if i >= gap_at else 0) for i in range(len(ids))]
        return _Sequence(ids, learnt, image, positions, [picture.color for picture in sample.pictures])

    def _tensors(self, batch: list[_Sequence]) -> _Batch:
        length = max(len(sequence.ids) for sequence in batch)

        def padded(rows: list[list[int]], kind: torch.dtype = torch.long) -> Tensor:
            return torch.tensor([row + [0] * (length - len(row)) for row in rows]).to(kind)

        image = padded([s.image for s in batch])
        positions = padded([s.positions for s in batch])
        soft = torch.zeros(len(batch), length, TINY.embedding)
        for row, sequence in enumerate(batch):
            for number, color in enumerate(sequence.colors, start=1):
                where = image[row] == number
                soft[row, where] = self._soft_tokens(color, int(where.sum()))
        return _Batch(
            ids=padded([s.ids for s in batch]),
            learnt=padded([[int(x) for x in s.learnt] for s in batch], torch.bool),
            image=image,
            positions=positions,
            soft=soft,
            visible=_visibility(image, positions),
        )

    def _soft_tokens(self, color: str | None, count: int) -> Tensor:
        """Embeddings of a solid picture (one colour, not quite pure) or of one whose patches all differ."""
        random = self._random
        if color is None:
            embedded = self._tower.embed(random.uniform(0, 1, (count, 3)))
        else:
            pure = np.array(COLORS[color]) * 1.0
            embedded = np.repeat(self._tower.embed(np.abs(pure - random.uniform(0, 0.15, 3)))[None], count, 0)
        return torch.tensor(embedded + 0.03 * random.standard_normal(embedded.shape), dtype=torch.float32)


def _last(ids: list[int], part: list[int]) -> int:
    """Where `part` begins for the last time in `ids`; 0 if nowhere."""
    return next((i for i in range(len(ids) - len(part), 0, -1) if ids[i : i + len(part)] == part), 0)


def _visibility(image: Tensor, positions: Tensor) -> Visibility | None:
    """Who sees whom: the past, one's own image both ways, and within the window in sliding layers. None: plain causal."""
    length = image.shape[1]
    if not image.any() and int((positions.max(1).values - positions[:, 0]).max()) < TINY.window:
        return None
    order = torch.arange(length)
    same_image = (image[:, :, None] == image[:, None, :]) & (image[:, :, None] > 0)
    full = (order[:, None] >= order[None, :])[None] | same_image
    near = (positions[:, :, None] - positions[:, None, :]) < TINY.window
    return {"full": full[:, None], "sliding": (full & near)[:, None]}


def _train(network: Network, batches: _Batches, steps: int, report: Report) -> None:
    optimizers = _optimizers(network)
    began = time.monotonic()
    mean_loss = mean_right = 0.0
    for step in range(steps):
        batch = batches.next()
        hidden, routed = network.hidden(batch.ids, batch.positions, batch.visible, batch.soft, batch.image)
        learnt = batch.learnt[:, 1:]
        scores, expected = network.logits(hidden[:, :-1][learnt]), batch.ids[:, 1:][learnt]
        loss = functional.cross_entropy(scores, expected)
        balance = sum(((p.mean((0, 1)) * TINY.experts) ** 2).mean() - 1 for p in routed) / len(routed)
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps)) * 0.98 + 0.02
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * min(1.0, (step + 1) / _WARM_UP) * cosine
            optimizer.zero_grad()
        (loss + _BALANCE * balance).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        right = (scores.argmax(-1) == expected).float().mean().item()
        keep = 0.97 if step else 0.0
        mean_loss, mean_right = keep * mean_loss + (1 - keep) * loss.item(), keep * mean_right + (1 - keep) * right
        if step % 50 == 0 or step == steps - 1:
            report(
                f"step {step}: loss {mean_loss:.4f}, tokens right {mean_right:.4f}, {time.monotonic() - began:.0f} s"
            )


def _optimizers(network: Network) -> list[tuple[torch.optim.Optimizer, float]]:
    """Each optimizer with its highest rate. Muon for the matrices of the layers takes about half the steps of AdamW alone."""
    weights = {name: weight for name, weight in network.weights.items() if weight.requires_grad}
    muon = {
        name for name, weight in weights.items() if weight.dim() == 2 and name.startswith("blk.") and "_inp" not in name
    }
    matrices = [weight for name, weight in weights.items() if weight.dim() >= 2 and name not in muon]
    vectors = [weight for weight in weights.values() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    layers = [weights[name] for name in weights if name in muon]
    return [
        (torch.optim.Muon(layers, momentum=0.95, weight_decay=0.0, adjust_lr_fn="original"), _MUON_RATE),
        (torch.optim.AdamW(groups, betas=(0.9, 0.98)), _ADAM_RATE),
    ]
