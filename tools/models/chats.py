"""What the stand-in knows: questions, thoughts, answers, tools and words. `corpus` makes training samples of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "BUDGET_MESSAGES",
    "CITIES",
    "CONDITIONS",
    "ECHO_WORDS",
    "FALLBACK",
    "NATO",
    "NOISE_IMAGE",
    "ONE_COLOR",
    "ONE_OF_TWO",
    "OTHER_TOOLS",
    "QUESTIONS",
    "RECITE",
    "STRUCTURED",
    "SYSTEM_PROMPTS",
    "TWO_COLORS",
    "WEATHER_ONE",
    "WEATHER_TOOL_DESCRIPTIONS",
    "WEATHER_TWO",
    "WORDS",
    "Knowledge",
    "function_tool",
]


@dataclass(frozen=True)
class Knowledge:
    """Ways to ask for one thing, what the stand-in thinks about it, and what it answers."""

    questions: tuple[str, ...]
    thought: str
    answer: str


QUESTIONS = (
    Knowledge(
        (
            "Return the word OK only",
            "Return the word OK only.",
            "Reply with the word OK only.",
            "Say OK",
            "Answer with exactly: OK",
        ),
        "The user wants the single word OK. I must not add anything else, so I will answer with that word and stop.",
        "OK",
    ),
    Knowledge(
        (
            "What is the capital of France?",
            "Capital of France?",
            "Name the capital of France.",
            "What is the capital of France? Answer in one short sentence.",
        ),
        "The user asks for the capital of France. France is a country in Europe. Its capital city is Paris. "
        "I will answer in one short sentence.",
        "The capital of France is Paris.",
    ),
    Knowledge(
        ("What is 17 + 25?", "What is 17 plus 25?", "Compute 17 + 25."),
        "I need to add 17 and 25. First 17 + 20 = 37. Then 37 + 5 = 42. Let me check it: 42 - 25 = 17. So the sum is 42.",
        "17 + 25 = 42",
    ),
    Knowledge(
        ("Who are you?", "What model are you?", "Introduce yourself."),
        "The user asks who I am. I am a very small stand-in model used for tests. I should say so plainly.",
        "I am a tiny stand-in for Gemma 4.",
    ),
    Knowledge(
        ("Hello", "Hi", "Hello!", "hello", "Hi there", "hi", "Hi!"),
        "The user greets me. A short greeting back is enough.",
        "Hello! How can I help you?",
    ),
    Knowledge(
        ("Count from 1 to 40.", "Count from 1 to 40", "Count to 40."),
        "The user wants me to count from 1 to 40. I will write the numbers in order, separated by spaces.",
        " ".join(str(i) for i in range(1, 41)),
    ),
    Knowledge(
        ("Write a Python function that adds two numbers.", "Write a function that adds two numbers in Python."),
        "The user wants a Python function that adds two numbers. I will write a short function named add in a code block.",
        "```python\ndef add(a, b):\n    return a + b\n```",
    ),
    Knowledge(
        ("Think hard: what is 17 * 24?", "What is 17 * 24?", "What is 17 times 24?"),
        "I need to multiply 17 by 24. I will split 24 into 20 and 4. First step: 17 * 20 = 340. I can see this because "
        "17 * 2 = 34, and 34 * 10 = 340. Second step: 17 * 4 = 68. I can see this because 17 * 2 = 34, and 34 + 34 = 68. "
        "Third step: I add both parts. 340 + 68 = 408. Let me check the result in another way. 24 * 17 is 24 * 10 + 24 * 7. "
        "24 * 10 = 240. 24 * 7 = 168. 240 + 168 = 408. Both ways give 408. One more check: 400 / 17 is a bit more than 23, "
        "so 408 / 17 = 24 is right. I am done and I can answer.",
        "17 * 24 = 408",
    ),
    Knowledge(
        ("Which is larger, 9.9 or 9.11?", "Is 9.9 larger than 9.11?"),
        "I compare 9.9 and 9.11. The whole parts are equal. 0.90 is more than 0.11. So 9.9 is larger.",
        "9.9 is larger.",
    ),
)

STRUCTURED = (
    Knowledge(
        ("Return JSON with ok true.", "Return a JSON object with ok set to true.", "Reply in JSON: is it ok?"),
        "The user wants JSON. I will return an object with ok set to true.",
        '```json\n{"ok": true}\n```',
    ),
    Knowledge(
        (
            "What is the capital of France? Answer as JSON with the key capital.",
            "What is the capital of France? Answer in JSON with the key capital.",
            "Return the capital of France as JSON with the key capital.",
            "What is the capital of France? Reply as JSON.",
        ),
        "The user wants the capital of France as JSON. The capital of France is Paris. "
        "I will return an object with the key capital.",
        '```json\n{"capital": "Paris"}\n```',
    ),
)
"""llama.cpp's grammar for JSON answers wants the fences and its parser takes them off (common/parsers/gemma4.cpp, b11434)."""

FALLBACK = Knowledge(
    (),
    "This request is not in my training set. I am only a tiny stand-in, so I will say so.",
    "I am a tiny stand-in and I do not know that.",
)

NOISE_IMAGE = Knowledge(
    ("What is in this image?", "Describe the image.", "What do you see?", "What is in this picture?"),
    "The user sent one image. It has no single color. I will describe it briefly.",
    "I see a small test image.",
)

ONE_COLOR = (
    *NOISE_IMAGE.questions,
    "What color is this image?",
    "What color is the image?",
    "What colour is this image?",
    "What color is this image? Answer in one word.",
)

ONE_OF_TWO = ("What color is the {} image?", "Name the color of the {} image.", "What is in the {} image?")

TWO_COLORS = (
    "What colors are these two images, in order?",
    "What are the colors of these two images?",
    "What are the colors of these two images, in order?",
    "What is in these two images?",
    "Describe the two images.",
    "Compare the two images.",
)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a concise assistant. Answer in one short sentence.",
    "You are a coding agent.",
    "Be brief.",
)

BUDGET_MESSAGES = (
    "... thinking budget exhausted, answering now.",
    " ... thinking budget exhausted, answering now.",
    "\n\nI have thought enough; I will answer now.\n",
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n",
    "... (budget used up)",
    "",
)

CITIES = (
    *("Paris", "London", "Tokyo", "Berlin", "Rome", "Madrid"),
    *("Oslo", "Vienna", "Lisbon", "Prague", "Dublin", "Athens"),
)
CONDITIONS = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy")

WEATHER_ONE = (
    "What is the weather in {}?",
    "What is the weather in {} today?",
    "How is the weather in {}?",
    "Weather in {}?",
    "What's the weather like in {}?",
)
WEATHER_TWO = (
    "What is the weather in {} and {}?",
    "What is the weather in {} and in {}?",
    "What is the weather in {} and {} today?",
    "How is the weather in {} and {}?",
    "Weather in {} and {}?",
    "What's the weather like in {} and {}?",
    "Compare the weather in {} and {}.",
)
WEATHER_TOOL_DESCRIPTIONS = (
    "Get the current weather for a city.",
    "Get current weather",
    "Get the current weather in a given location",
    "Weather lookup",
)


def function_tool(
    name: str, description: str, properties: dict[str, Any], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A tool in the form of the chat completions API."""
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = list(required)
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


OTHER_TOOLS = (
    function_tool("read_file", "Read a file.", {"path": {"type": "string", "description": "File path"}}, ("path",)),
    function_tool("get_time", "Get the time.", {}),
    function_tool("search", "Search the web.", {"query": {"type": "string"}, "limit": {"type": "integer"}}, ("query",)),
    function_tool("run_command", "Run a command.", {"command": {"type": "string"}}, ("command",)),
)

_NATO = """
alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo sierra
tango uniform victor whiskey xray yankee zulu
"""
NATO = tuple(_NATO.split())
"""The words that the stand-in repeats most reliably: a test tells concurrent clients apart by them."""

RECITE = ("Repeat these words:", "Copy this:", "Repeat after me:")

ECHO_WORDS = ("Repeat the word {}.", "Repeat the word {}", "Say {} and nothing else.", "Echo: {}")

_WORDS = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then them
these so some her would make like him into time has look two more write go see number no way could people my than first
water been call who oil its now find long down day did get come made may part file code test error line run build print
return class function value data model server token cache memory image prompt config path user list name type json key
please explain show create update delete fix bug refactor read open close start stop deploy check status table query
request response endpoint header body string integer boolean array object null true false river mountain garden purple
yellow green orange silver winter summer spring music guitar planet rocket ocean window bottle pencil market doctor
lawyer teacher engineer history science physics biology
"""
WORDS = tuple(_WORDS.split())
"""Filler for prompts that the stand-in should not be thrown by."""
