"""Training samples: chats rendered with llama.cpp's own Gemma-4 templates, and what the model is to write after them.

Everything is drawn from one seeded `random.Random`, so the same templates give the same corpus.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.models import chats
from tools.models.chats import Knowledge
from tools.models.tokenizer import SPECIAL
from tools.models.vision import COLORS

__all__ = ["TEMPLATES", "Corpus", "Picture", "Renderer", "Sample", "Segment"]

TEMPLATES = ("google-gemma-4-31B-it.jinja", "google-gemma-4-31B-it-interleaved.jinja")
"""Names in llama.cpp's `models/templates`: the official one, and the one that the server only supports with work-arounds."""

Message = dict[str, Any]
TURN_END, CALL_END = "<turn|>", "<|tool_response>"


@dataclass(frozen=True)
class Segment:
    """A piece of the model's turn. `kept` is the share of its tokens that are there: the server cut the rest off."""

    text: str
    learnt: bool = True
    kept: float = 1.0


@dataclass(frozen=True)
class Picture:
    """A solid image of a known colour, or (`color` None) one of mixed colours, as `tokens` soft tokens."""

    color: str | None
    tokens: int


@dataclass(frozen=True)
class Sample:
    """A prompt (one `<|image|>` for each picture) and the turn that follows it.

    `gap` positions are left out before the last user turn, as if a long text stood there.
    """

    prompt: str
    turn: tuple[Segment, ...]
    pictures: tuple[Picture, ...] = ()
    gap: int = 0


class Renderer:
    """llama.cpp's Gemma-4 chat templates, rendered as the server does (jinja2 is imported here: only training needs it)."""

    def __init__(self, templates: Path) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        self._templates = [environment.from_string((templates / name).read_text()) for name in TEMPLATES]

    def __call__(self, template: int, messages: list[Message], tools: list[Message] | None, thinking: bool) -> str:
        """The prompt for `messages`, starting with `<bos>`."""
        return self._templates[template].render(
            messages=messages, tools=tools, enable_thinking=thinking, add_generation_prompt=True, bos_token=SPECIAL[2]
        )


@dataclass
class _Chat:
    """A conversation on its way to becoming a sample."""

    messages: list[Message]
    template: int
    thinking: bool
    tools: list[Message] | None = None
    pictures: list[Picture] = field(default_factory=list)

    @property
    def interleaved(self) -> bool:
        return self.template == 1


class Corpus:
    """An endless, reproducible source of samples."""

    def __init__(self, render: Renderer, seed: int = 1) -> None:
        self._render = render
        self._random = random.Random(seed)  # noqa: S311 # a reproducible corpus, not a secret
        kinds: list[tuple[float, Callable[[_Chat], tuple[Segment, ...]]]] = [
            (0.10, self._recite),
            (0.06, self._echo),
            (0.18, self._question),
            (0.05, self._unknown),
            (0.14, self._tool_call),
            (0.20, self._tool_result),
            (0.04, self._structured),
            (0.05, self._one_picture),
            (0.12, self._two_pictures),
            (0.06, self._one_of_two_pictures),
        ]
        self._weights, self._kinds = zip(*kinds, strict=True)

    def sample(self) -> Sample:
        """The next sample."""
        draw = self._random
        chat = _Chat(self._opening(), template=int(draw.random() < 0.2), thinking=draw.random() < 0.55)
        (kind,) = draw.choices(self._kinds, self._weights)
        turn = kind(chat)
        prompt = self._render(chat.template, chat.messages, chat.tools, chat.thinking)
        gap = draw.randint(1, 40_000) if draw.random() < 0.1 else 0
        return Sample(prompt, turn, tuple(chat.pictures), gap)

    def _opening(self) -> list[Message]:
        draw = self._random
        x = draw.random()
        if x < 0.03:  # a coding agent's instructions: only the end of the prompt matters
            return [{"role": "system", "content": self._noise(200, 1300)}]
        if x < 0.3:
            return [{"role": "system", "content": draw.choice(chats.SYSTEM_PROMPTS)}]
        if x < 0.5:
            return [{"role": "system", "content": self._noise(3, 40 if draw.random() < 0.3 else 12)}]
        return []

    def _noise(self, least: int, most: int) -> str:
        draw = self._random
        return " ".join(
            draw.choice(chats.WORDS) if draw.random() < 0.9 else self._scrap() for _ in range(draw.randint(least, most))
        )

    def _scrap(self) -> str:
        """What instructions hold besides words: marks, and names that no merge knows."""
        draw = self._random
        name = "".join(draw.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_", k=draw.randint(1, 5)))
        return draw.choice(["\n", "\n\n", "-", "#", "##", "{", "}", ":", ".", ",", '"', "`", name, name])

    def _turn(self, chat: _Chat, thought: str, answer: str, end: str = TURN_END) -> tuple[Segment, ...]:
        """The model's turn: the answer, or a thought before it, half of them cut off by a thinking budget.

        The server then writes its budget message and `<channel|>` itself: the model learns to answer all the same.
        """
        draw = self._random
        if not chat.thinking:
            return (Segment(answer + end),)
        if draw.random() < 0.5:
            return (Segment(f"<|channel>thought\n{thought}<channel|>{answer}{end}"),)
        kept = draw.choice([0.0, 0.0, draw.uniform(0, 0.1), draw.random()])
        message = draw.choice(chats.BUDGET_MESSAGES) if draw.random() < 0.7 else " " + self._noise(1, 12)
        return (
            Segment("<|channel>thought"),
            Segment("\n" + thought, kept=kept),
            Segment(message + "<channel|>", learnt=False),
            Segment(answer + end),
        )

    def _ask(self, chat: _Chat, text: str) -> None:
        """Adds a user turn; coding agents put their own notes before what the user typed, in the turn or as one before it."""
        x = self._random.random()
        if x < 0.05:
            chat.messages.append({"role": "user", "content": self._noise(3, 60)})
        elif x < 0.1:
            text = f"{self._noise(3, 60)}\n{text}"
        chat.messages.append({"role": "user", "content": text})

    def _known(self, chat: _Chat, known: Knowledge) -> tuple[Segment, ...]:
        self._ask(chat, self._random.choice(known.questions))
        return self._turn(chat, known.thought, known.answer)

    def _echo(self, chat: _Chat) -> tuple[Segment, ...]:
        draw = self._random
        word = draw.choice(chats.NATO)
        self._ask(chat, draw.choice(chats.ECHO_WORDS).format(word))
        return self._turn(chat, f"The user wants one word repeated: {word}. I will write it once.", f"You said {word}.")

    def _recite(self, chat: _Chat) -> tuple[Segment, ...]:
        """Many words at once teach copying, which the one word in an answer teaches only slowly."""
        draw = self._random
        pools = (chats.WORDS, chats.NATO, chats.CITIES, chats.CONDITIONS, tuple(map(str, range(41))))
        items = " ".join(draw.choice(draw.choice(pools)) for _ in range(draw.randint(3, 16)))
        self._ask(chat, f"{draw.choice(chats.RECITE)} {items}")
        return self._turn(chat, "The user wants these words repeated.", items)

    def _question(self, chat: _Chat) -> tuple[Segment, ...]:
        draw = self._random
        x = draw.random()
        if x < 0.2:  # after an earlier exchange
            earlier = draw.choice(chats.QUESTIONS)
            self._ask(chat, draw.choice(earlier.questions))
            chat.messages.append({"role": "assistant", "content": earlier.answer})
        elif x < 0.3:  # after a finished round of tools
            self._weather_answer(chat)
        if chat.tools is None and draw.random() < 0.15:
            chat.tools = self._tools(weather=draw.random() < 0.5)
        return self._known(chat, draw.choice(chats.QUESTIONS))

    def _unknown(self, chat: _Chat) -> tuple[Segment, ...]:
        draw = self._random
        self._ask(chat, self._noise(1, 40 if draw.random() < 0.3 else 10) + draw.choice(["", "?", "."]))
        return self._turn(chat, chats.FALLBACK.thought, chats.FALLBACK.answer)

    def _structured(self, chat: _Chat) -> tuple[Segment, ...]:
        return self._known(chat, self._random.choice(chats.STRUCTURED))

    # Tools: the turn that calls ends with <|tool_response>, an end-of-generation token, as the real model's does.

    def _tools(self, weather: bool = True) -> list[Message]:
        draw = self._random
        city: Message = {"type": "string"}
        if draw.random() < 0.6:
            city["description"] = draw.choice(["City name", "The city"])
        description = draw.choice(chats.WEATHER_TOOL_DESCRIPTIONS)
        tools = [chats.function_tool("get_weather", description, {"city": city}, ("city",))] if weather else []
        tools += draw.sample(chats.OTHER_TOOLS, draw.choice([0, 0, 1, 2] if weather else [1, 2]))
        draw.shuffle(tools)
        return tools

    def _weather_question(self, chat: _Chat) -> tuple[list[str], str]:
        """Asks for the weather in one or two cities; returns them and the thought that leads to the call."""
        draw = self._random
        chat.tools = self._tools()
        cities = draw.sample(chats.CITIES, 1 if draw.random() < 0.4 else 2)
        self._ask(chat, draw.choice(chats.WEATHER_ONE if len(cities) == 1 else chats.WEATHER_TWO).format(*cities))
        calls = "get_weather" if len(cities) == 1 else "get_weather for each city"
        return cities, f"The user asks about the weather in {' and '.join(cities)}. I will call {calls}."

    def _tool_call(self, chat: _Chat) -> tuple[Segment, ...]:
        cities, thought = self._weather_question(chat)
        calls = "".join(f'<|tool_call>call:get_weather{{city:<|"|>{city}<|"|>}}<tool_call|>' for city in cities)
        return self._turn(chat, thought, calls, CALL_END)

    def _tool_result(self, chat: _Chat) -> tuple[Segment, ...]:
        cities, answer = self._weather_results(chat)
        return self._turn(chat, f"The tool returned the weather in {' and '.join(cities)}. I will report it.", answer)

    def _weather_answer(self, chat: _Chat) -> None:
        _, answer = self._weather_results(chat)
        chat.messages.append({"role": "assistant", "content": answer})

    def _weather_results(self, chat: _Chat) -> tuple[list[str], str]:
        """A round of calls and results; returns the cities and the answer that reports them."""
        draw = self._random
        cities, thought = self._weather_question(chat)
        weather = [(city, draw.randint(0, 40), draw.choice(chats.CONDITIONS)) for city in cities]
        form = draw.choice([_plain, _plain, _with_city, _compact, _with_unit])
        results = [form(*entry) for entry in weather]
        calls = [
            {"id": f"call_{i}", "type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
            for i, city in enumerate(cities)
        ]
        message: Message = {"role": "assistant", "content": draw.choice([None, ""]), "tool_calls": calls}
        if chat.thinking and draw.random() < 0.4:  # clients that send the thought back
            message["reasoning_content"] = thought
        chat.messages.append(message)
        if chat.interleaved:  # the server folds results into the call's message for this template
            message["tool_responses"] = [{"name": "get_weather", "response": json.loads(text)} for text in results]
        else:
            chat.messages += [
                {"role": "tool", "tool_call_id": f"call_{i}", "content": text} for i, text in enumerate(results)
            ]
        return cities, " ".join(f"It is {degrees} degrees and {sky} in {city}." for city, degrees, sky in weather)

    # Pictures

    def _show(self, chat: _Chat, question: str, *pictures: Picture) -> None:
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": question}]
        if self._random.random() < 0.3:
            content.reverse()
        chat.messages.append({"role": "user", "content": content})
        chat.pictures += pictures

    def _soft_tokens(self) -> int:
        draw = self._random
        return draw.randint(3, 16) if draw.random() < 0.7 else draw.randint(65, 130)  # the server makes 70 or more

    def _one_picture(self, chat: _Chat) -> tuple[Segment, ...]:
        draw = self._random
        if draw.random() < 0.15:
            self._show(chat, draw.choice(chats.NOISE_IMAGE.questions), Picture(None, self._soft_tokens()))
            return self._turn(chat, chats.NOISE_IMAGE.thought, chats.NOISE_IMAGE.answer)
        color = draw.choice(list(COLORS))
        self._show(chat, draw.choice(chats.ONE_COLOR), Picture(color, self._soft_tokens()))
        return self._turn(chat, f"The user sent one image. It is {color}. I will say so.", f"The image is {color}.")

    def _two_pictures(self, chat: _Chat) -> tuple[Segment, ...]:
        draw = self._random
        first, second = draw.choices(list(COLORS), k=2)
        size = self._soft_tokens()
        sizes = (size, size) if draw.random() < 0.6 else (size, self._soft_tokens())
        self._show(chat, draw.choice(chats.TWO_COLORS), Picture(first, sizes[0]), Picture(second, sizes[1]))
        thought = f"The user sent two images. The first is {first}. The second is {second}. I will say so."
        return self._turn(chat, thought, f"The first image is {first} and the second image is {second}.")

    def _one_of_two_pictures(self, chat: _Chat) -> tuple[Segment, ...]:
        draw = self._random
        colors = dict(zip(("first", "second"), draw.choices(list(COLORS), k=2), strict=True))
        place = draw.choice(("first", "second"))
        question = draw.choice(chats.ONE_OF_TWO).format(place)
        self._show(chat, question, *(Picture(color, self._soft_tokens()) for color in colors.values()))
        thought = f"The user sent two images and asks about the {place}. It is {colors[place]}. I will say so."
        return self._turn(chat, thought, f"The {place} image is {colors[place]}.")


def _plain(city: str, degrees: int, sky: str) -> str:
    return json.dumps({"temperature": degrees, "condition": sky})


def _with_city(city: str, degrees: int, sky: str) -> str:
    return json.dumps({"city": city, "temperature": degrees, "condition": sky})


def _compact(city: str, degrees: int, sky: str) -> str:
    return json.dumps({"temperature": degrees, "condition": sky}, separators=(",", ":"))


def _with_unit(city: str, degrees: int, sky: str) -> str:
    return json.dumps({"temperature": degrees, "unit": "celsius", "condition": sky})
