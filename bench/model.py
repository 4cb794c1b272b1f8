"""A model of one gigabyte for benches: random weights by `tools.models`, kept in the user's cache under what makes them.

Random weights answer nonsense, but in words: text, a thought and a tool call come back, which is what a warm-up asks for.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from bench.stack import line
from modal_app import artifacts
from modal_app.release import ModelFile, ModelSpec
from tools.models import carried, files, random_weights, shape, tokenizer, vision

__all__ = ["gigabyte"]

SIZE = "1G"

SOURCES = [Path(str(module.__file__)) for module in (files, random_weights, shape, tokenizer, vision)]


def gigabyte(cache: Path) -> tuple[ModelSpec, Path]:
    """The model, and the directory of its files; written first, in about ten seconds, if `cache` does not have it."""
    revision = hashlib.sha1(usedforsecurity=False)
    for source in (*SOURCES, carried.carried_weights()):  # the tokenizer and the template are those of the stand-in
        revision.update(hashlib.sha1(source.read_bytes(), usedforsecurity=False).digest())
    spec = ModelSpec(
        repo="llama-on-modal/random-gemma4",
        revision=revision.hexdigest(),
        weights=ModelFile(path=f"random-gemma4-{SIZE}-F16.gguf"),
        projector=ModelFile(path=carried.PROJECTOR),
    )
    root = cache / "models"
    if artifacts.complete(root / spec.key) is None:
        for other in root.glob(spec.key.partition("@")[0] + "@*"):  # written by other code
            shutil.rmtree(other)
        root.mkdir(parents=True, exist_ok=True)
        line(f"writing a model of {SIZE}", str(root / spec.key))
        with artifacts.staging(root, spec.key) as staged:
            random_weights.write_random(
                staged,
                shape.parse_size(SIZE),
                SIZE,
                files.read_tokenizer(carried.carried_weights()),
                files.read_template(carried.carried_weights()),
            )
            artifacts.publish(staged, root, spec.key)
    return spec, root / spec.key
