"""Changes of llama.cpp that concern this project, each with the sign of it in a source tree.

The signs are looked for in the trees themselves, so that a tag that nobody has looked at is judged, too: a sign that a newer
tree lacks means a change taken back, or code that moved. `came` names the last tag without and the first with, of those that
have a source package on PyPI; the tests hold every sign against both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ARCHITECTURE", "BOUNDARIES", "Boundary"]


@dataclass(frozen=True)
class Boundary:
    """One change: `what` llama.cpp does since, what that `means` here, and the sign: `pattern`, in one of `files`."""

    what: str
    means: str
    came: tuple[str, str]
    files: tuple[str, ...]
    pattern: str

    def holds(self, tree: Path) -> bool:
        """Whether the sign is there."""
        texts = (path.read_text() for file in self.files if (path := tree / file).is_file())
        return any(re.search(self.pattern, text, re.DOTALL) for text in texts)


GEMMA4_PARSER = ("common/parsers/gemma4.cpp", "common/chat.cpp")

ARCHITECTURE = Boundary(
    "knows the architecture gemma4",
    "the model can be loaded",
    ("", "b8643"),
    ("src/llama-arch.cpp",),
    '"gemma4"',
)
"""The oldest tree of it on PyPI is in llama-cpp-python 0.3.20; the one in 0.3.19 is without."""

BOUNDARIES = (
    ARCHITECTURE,
    Boundary(
        "has a parser made for Gemma 4 (PR #21418)",
        "patches of the parser have a target",
        ("b8643", "b9093"),
        GEMMA4_PARSER,
        r"common_chat_params_init_gemma4\([^;{]*\)\s*\{",
    ),
    Boundary(
        "knows the drafter's architecture gemma4-assistant (PR #23398)",
        "mtp can be switched on",
        ("b9548", "b9553"),
        ("src/llama-arch.cpp",),
        '"gemma4-assistant"',
    ),
    Boundary(
        "lets a request's thinking budget win over the server's",
        "reasoningBudget is a default, not a cap",
        ("b9981", "b9986"),
        ("tools/server/server-common.cpp",),
        r'json_value\(body, "reasoning_budget_tokens"',
    ),
    Boundary(
        "has a list of tags that end a thought, thinking_end_tags",
        "a patch that sets thinking_end_tag does not compile",
        ("b10121", "b10133"),
        ("common/chat.h",),
        r"\bthinking_end_tags;",
    ),
    Boundary(
        "asks for the key at /v1/models",
        "names and sizes of the model are not public",
        ("b10502", "b10524"),
        ("tools/server/server-http.cpp",),
        r'"/v1/health",(?!\s*"/models")',
    ),
    Boundary(
        "reads an image with up to 1120 tokens (PR #28335)",
        "ubatchSize has to be 1120 or more",
        ("b10798", "b10816"),
        ("tools/mtmd/clip.cpp",),
        r"case PROJECTOR_TYPE_GEMMA4V:((?!break;).)*set_limit_image_tokens\(70, 1120\)",
    ),
    Boundary(
        "has the parser in a file of its own, common/parsers/gemma4.cpp",
        "patches name both places in their Files line",
        ("b10852", "b10865"),
        GEMMA4_PARSER[:1],
        "common_chat_params_init_gemma4",
    ),
    Boundary(
        "compiles CUDA attention for the pairs in GGML_CUDA_FA_QUANTS",
        "a kvCacheType that modal_app/recipe.py does not name falls back to f16 (docs/build.md)",
        ("b10867", "b10878"),
        ("ggml/CMakeLists.txt",),
        r"\bGGML_CUDA_FA_QUANTS\b",
    ),
    Boundary(
        'forces a call by the grammar for tool_choice "required"',
        "callers that ask for a call get one",
        ("b11057", "b11063"),
        GEMMA4_PARSER,
        r"return start \+ thought \+ tool_call;",
    ),
    Boundary(
        "caps an image to the physical batch",
        "a big image cannot end the server, whatever ubatchSize is",
        ("b11321", "b11334"),
        ("tools/server/server-context.cpp",),
        "cap image_max_tokens",
    ),
)
