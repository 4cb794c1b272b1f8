"""Text in, text out: plain, streamed, as JSON, and over the two other APIs."""

from __future__ import annotations

import json

from checks.answers import Answer, shorten
from checks.measure import read_stream
from checks.prompts import CAPITAL, CAPITAL_JSON, CAPITAL_SCHEMA, MULTIPLY, PRODUCT, mentions
from checks.results import CheckFailed
from checks.session import ANSWER_TOKENS, Session

__all__ = ["json_schema", "messages", "plain", "responses", "streaming"]


def plain(session: Session) -> str:
    """A short question gets its answer, and the tokens are counted."""
    answer = session.chat(CAPITAL, f'"{CAPITAL}"', thinking=False)
    answer.require(mentions(answer.content, "Paris") >= 0, "an answer with Paris")
    answer.require(answer.at(int, "usage", "completion_tokens") > 0, "usage with completion_tokens")
    answer.require(answer.at(str, "choices", 0, "finish_reason") == "stop", "finish_reason stop")
    return f'"{shorten(answer.content, 60)}"'


def streaming(session: Session) -> str:
    """Reasoning, then content, never both in one chunk; then finish_reason, usage and [DONE], each once."""
    about = f'"{MULTIPLY}", streamed'
    body = session.chat_body(MULTIPLY, thinking=True, stream=True, stream_options={"include_usage": True})
    stream = read_stream(session.endpoint, body, about)

    def require(condition: bool, expected: str, got: object) -> None:
        if not condition:
            raise CheckFailed(f"POST /v1/chat/completions {about}", expected, shorten(str(got)))

    for chunk in stream.chunks:
        both = bool(chunk.reasoning) and bool(chunk.content)
        require(not both, "reasoning or content in a chunk", f"both: {chunk.raw}")
    order = "".join("r" if chunk.reasoning else "c" for chunk in stream.chunks if chunk.reasoning or chunk.content)
    got_order = f"{order.count('r')} chunks of reasoning, {order.count('c')} of content, out of order"
    require("r" in order, "reasoning", f"none; content {stream.content!r}")
    require("c" in order, "content", f"none; reasoning {stream.reasoning!r}")
    require("cr" not in order, "reasoning before content", got_order)
    require(mentions(stream.content, PRODUCT) >= 0, f"content with {PRODUCT}", stream.content)
    finishes = [chunk.finish_reason for chunk in stream.chunks if chunk.finish_reason]
    require(finishes == ["stop"], "finish_reason stop, once", finishes)
    require(stream.completion_tokens > 0, "a chunk with usage", f"none in {len(stream.chunks)} chunks")
    require(stream.ended, "data: [DONE] at the end", f"{len(stream.chunks)} chunks, the last {stream.chunks[-1].raw}")
    times = f"the first after {stream.first_seconds:.2f} s, the last after {stream.seconds:.2f} s"
    return f"{stream.completion_tokens} tokens, {times}"


def json_schema(session: Session) -> str:
    """`response_format: json_schema` gives JSON that has the schema's form."""
    schema = {"name": "answer", "strict": True, "schema": CAPITAL_SCHEMA}
    answer = session.chat(
        CAPITAL_JSON,
        f'"{CAPITAL_JSON}" with a JSON schema',
        response_format={"type": "json_schema", "json_schema": schema},
    )
    try:
        value = json.loads(answer.content)
    except ValueError:
        value = None
    answer.require(isinstance(value, dict), "content that is a JSON object")
    answer.require(list(value) == ["capital"] and isinstance(value["capital"], str), "the one key capital with a text")
    answer.require(mentions(value["capital"], "Paris") >= 0, "the capital to be Paris")
    return answer.content


def responses(session: Session) -> str:
    """`/v1/responses`, which Codex and Cursor use."""
    answer = session.respond(CAPITAL, f'"{CAPITAL}"')
    answer.require(answer.at(str, "status") == "completed", "status completed")
    answer.require(mentions(answer.output_text, "Paris") >= 0, "an answer with Paris")
    return f'"{shorten(answer.output_text, 60)}"'


def messages(session: Session) -> str:
    """`/v1/messages`, which Claude Code uses: with the key in X-Api-Key, as Anthropic's SDK sends it, and as Bearer."""
    body = session.chat_body(CAPITAL)
    body["max_tokens"] = ANSWER_TOKENS
    for key in session.endpoint.key_headers:
        answer = session.endpoint.send("POST", "/v1/messages", body, about=f'"{CAPITAL}"', headers=key).ok()
        answer.require(answer.at(str, "role") == "assistant", "an assistant's message")
        text = _message_text(answer)
        answer.require(mentions(text, "Paris") >= 0, "an answer with Paris")
        answer.require(answer.at(str, "stop_reason") == "end_turn", "stop_reason end_turn")
        answer.require(answer.at(int, "usage", "output_tokens") > 0, "usage with output_tokens")
    return f'"{shorten(text, 60)}"'


def _message_text(answer: Answer) -> str:
    blocks = answer.at(list, "content")
    texts = [i for i, block in enumerate(blocks) if isinstance(block, dict) and block.get("type") == "text"]
    return "".join(answer.at(str, "content", i, "text") for i in texts)
