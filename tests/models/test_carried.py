"""The carried stand-in is what the configuration says, and knows what other tests rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import checks
from checks.prompts import png
from tests.stand_in import StandIn
from tools.models import carried, chats
from tools.models.files import read_tokenizer
from tools.models.vision import COLORS

PROJECT = Path(__file__).parents[2]

MOST_PROBABLE = {"temperature": 0, "max_tokens": 1024}


def test_the_carried_files_are_the_recorded_ones() -> None:
    (commit,) = (carried.DIRECTORY / carried.REPO).iterdir()
    files = {path.name: carried.sha256_of(path) for path in commit.iterdir()}
    assert files == carried.FILES
    assert commit.name == carried.REVISION == carried.commit_of(files)


def test_the_local_stack_serves_the_carried_files() -> None:
    config = yaml.safe_load((PROJECT / "Pulumi.local.yaml.example").read_text())["config"]
    model = config["llama-on-modal:model"]
    assert (model["repo"], model["revision"]) == (carried.REPO, carried.REVISION)
    assert model["weights"] == {"path": carried.WEIGHTS, "sha256": carried.FILES[carried.WEIGHTS]}
    assert model["projector"] == {"path": carried.PROJECTOR, "sha256": carried.FILES[carried.PROJECTOR]}


def test_the_commit_is_that_of_the_shell(tmp_path: Path) -> None:
    # printf a > a; printf b > b; LC_ALL=C sha256sum a b | sha1sum
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files = {name: carried.sha256_of(tmp_path / name) for name in ("b", "a")}
    assert carried.commit_of(files) == "e410f8a68f47842a80f63e0c92044ae585f9cd44"


def test_carrying_replaces_what_was_carried(tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").write_text("one")
    before, _ = carried.carry([tmp_path / "weights.gguf"], tmp_path / "hub", "someone/model")
    (tmp_path / "weights.gguf").write_text("two")
    after, _ = carried.carry([tmp_path / "weights.gguf"], tmp_path / "hub", "someone/model")
    assert before != after
    assert [path.name for path in (tmp_path / "hub/someone/model").iterdir()] == [after]
    assert (tmp_path / "hub/someone/model" / after / "weights.gguf").read_text() == "two"


# ---- served by the real engine


@pytest.fixture
def ask(stand_in: StandIn) -> Any:
    """Asks the stand-in a question without thinking, taking the most probable tokens, and returns its text."""

    def content(question: Any) -> str:
        body = {
            "messages": [{"role": "user", "content": question}],
            "chat_template_kwargs": {"enable_thinking": False},
            **MOST_PROBABLE,
        }
        with checks.Endpoint(stand_in.url, stand_in.key) as endpoint:
            return endpoint.send("POST", "/v1/chat/completions", body).ok().content

    return content


@pytest.mark.local
def test_every_question_gets_its_answer(ask: Any) -> None:
    expected = {question: known.answer for known in chats.QUESTIONS for question in known.questions}
    assert {question: ask(question) for question in expected} == expected


@pytest.mark.local
def test_every_word_is_repeated(ask: Any) -> None:
    answers = {word: ask(f"Repeat the word {word}.") for word in chats.NATO}
    assert answers == {word: f"You said {word}." for word in chats.NATO}


@pytest.mark.local
def test_every_colour_is_named(ask: Any) -> None:
    def show(color: str) -> Any:
        image = {"type": "image_url", "image_url": {"url": png(*(round(255 * part) for part in COLORS[color]))}}
        return [image, {"type": "text", "text": "What color is this image?"}]

    assert {color: ask(show(color)) for color in COLORS} == {color: f"The image is {color}." for color in COLORS}


@pytest.mark.local
def test_the_tokenizer_is_the_engines(stand_in: StandIn) -> None:
    tokenizer = read_tokenizer(carried.carried_weights())
    probes = [
        "Hello, world!",
        "  two spaces,\ttab\n\n\nthree lines\n",
        "def add(a, b):\n    return a + b  # 42",
        "Grüße, 東京 🙂 <|turn>user\nhi<turn|>",
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>',
        "\n" * 11,
        "a1b2__c-3.14",
    ]
    with checks.Endpoint(stand_in.url, stand_in.key) as endpoint:
        for probe in probes:
            body = {"content": probe, "parse_special": True, "add_special": False}
            answer = endpoint.send("POST", "/tokenize", body).ok()
            assert answer.at(list, "tokens") == tokenizer.encode(probe), probe


@pytest.mark.local
def test_training_prompts_are_those_of_the_engine(stand_in: StandIn, llama_server_build: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="only training renders templates")
    from tools.models.corpus import TEMPLATES, Renderer

    for name, built in zip(TEMPLATES, ("chat-template.jinja", "chat-template-interleaved.jinja"), strict=True):
        (tmp_path / name).write_text((llama_server_build / built).read_text())
    render = Renderer(tmp_path)
    tool = chats.function_tool("get_weather", "Weather lookup", {"city": {"type": "string"}}, ("city",))
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
        for i, city in enumerate(("Paris", "Rome"))
    ]
    asked: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather in Paris and Rome?"},
    ]
    called = {"role": "assistant", "content": "", "reasoning_content": "Two calls.", "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": '{"temperature": 3}'} for call in calls]
    with checks.Endpoint(stand_in.url, stand_in.key) as endpoint:
        for messages in (asked, [*asked, called, *results]):
            for thinking in (True, False):
                body = {"messages": messages, "tools": [tool], "chat_template_kwargs": {"enable_thinking": thinking}}
                answer = endpoint.send("POST", "/apply-template", body).ok()
                assert f"<bos>{answer.at(str, 'prompt')}" == render(0, messages, [tool], thinking)
