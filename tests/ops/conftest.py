"""`python -m ops` in this process, and source trees small enough to write by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops import flags
from ops.__main__ import main


@dataclass(frozen=True)
class Done:
    """What an operator sees of a command."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def ops(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs `python -m ops`."""

    def run(*arguments: str) -> Done:
        status = main([*arguments])
        return Done(status, *capsys.readouterr())

    return run


PARSER = """\
static common_chat_params common_chat_params_init_gemma4(const common_chat_template & tmpl) {
    common_chat_params data;
    data.supports_thinking = true;
    data.thinking_start_tag = "<|channel>thought";
    data.thinking_end_tags = {"<channel|>"};
    return start + thought + tool_call;
}
"""
BUDGET = """\
json oaicompat_chat_params_parse(json & body) {
    if (reasoning) {
        int reasoning_budget = json_value(body, "reasoning_budget_tokens", -1);
        if (!chat_params.thinking_end_tags.empty()) {
            llama_params["reasoning_budget_tokens"] = reasoning_budget;
        }
    }
}
"""
README = """\
# LLaMA.cpp HTTP Server

## Usage

| `--port PORT` | port to listen |

## API Endpoints

### GET `/health`: Returns health check result

```sh
# not a heading
curl http://localhost:8080/health

```

### POST `/completion`: Given a `prompt`, it returns the predicted completion.

#### Options

`n_probs`: how many probabilities
"""
TEMPLATES = "models/templates/google-gemma-4-31B-it"


def arg_cpp(names: tuple[str, ...]) -> str:
    """Options in the form of common/arg.cpp."""
    option = 'add_opt(common_arg(\n    {{"{}"}}, "N",\n    "what it does (default: 1)",\n    [](common_params &) {{ }}\n));\n'
    return "".join(option.format(name) for name in names)


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts trees into a user's cache of this test's own: `trees("b11434", {file: text or None})` changes what is usual."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def write(tag: str, changes: dict[str, str | None] | None = None) -> Path:
        usual: dict[str, str | None] = {
            "CMakeLists.txt": "option(GGML_NATIVE)\n",
            "common/arg.cpp": arg_cpp(flags.ours(tag)),
            "common/parsers/gemma4.cpp": PARSER,
            "src/llama-arch.cpp": '{ LLM_ARCH_GEMMA4, "gemma4" },\n',
            "tools/server/README.md": README,
            "tools/server/server-common.cpp": BUDGET,
            f"{TEMPLATES}.jinja": "{{ messages }}\n",
            f"{TEMPLATES}-interleaved.jinja": "{{ messages }}\n",
        }
        root = tmp_path / "llama-on-modal/sources" / tag
        for file, text in (usual | (changes or {})).items():
            if text is not None:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).write_text(text)
        return root

    return write
