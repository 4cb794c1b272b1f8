"""docs/blueprint.md accounts for every line of the blueprint, and what it names exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

import checks

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "docs" / "blueprint.md"

COUNTED = {"Overview": 124, "Configuration": 115, "Deployment": 146, "Operations": 98}
"""Rows that each document of the blueprint gave when it was read line by line. Rows may be added, none may go."""

LETTERS = {"Overview": "O", "Configuration": "C", "Deployment": "D", "Operations": "P"}

STATUSES = ("kept", "replaced", "dropped", "later", "n/a")

LATER = tuple(
    f"Later: {work}"
    for work in (
        "convergence",
        "snapshots",
        "cost and memory plans",
        "operators and clients",
        "other people's Modal apps",
        "the GPU path",
    )
)

HEADER = ["Id", "The blueprint says", "Status", "Where, or why"]

FILES_WITHOUT_SUFFIX = ("Makefile", "LICENSE", "activate")
SUFFIXES = (".py", ".md", ".yaml", ".toml", ".txt", ".patch", ".jinja", ".example", ".json")


@dataclass(frozen=True)
class Row:
    """One line of the ledger."""

    document: str
    id: str
    says: str
    status: str
    where: str

    @property
    def things(self) -> list[str]:
        """What the last cell names of this repository: files, keys, checks, make targets."""
        return [name for name in _quoted(self.where) if not name.startswith("fact: ") and missing(name) == ""]


def _quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def _cells(line: str) -> list[str]:
    """The cells of a table line; `\\|` is a bar inside a cell."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _is_separator(cells: list[str]) -> bool:
    return all(re.fullmatch(r":?-+:?", cell) for cell in cells)


def parse(text: str) -> list[Row]:
    """The rows of every ledger table of `text`, in order. Raises ValueError for a line that is no whole row."""
    found: list[Row] = []
    document, in_ledger = "", False
    for line in text.splitlines():
        if line.startswith("## "):
            document = line.removeprefix("## ")
        if not line.startswith("|"):
            in_ledger = False
            continue
        cells = _cells(line)
        if cells == HEADER:
            in_ledger = True
        elif in_ledger and not _is_separator(cells):
            if len(cells) != len(HEADER):
                raise ValueError(f"{line!r} has {len(cells)} cells: expected {len(HEADER)}")
            found.append(Row(document, *cells))
    return found


@cache
def text() -> str:
    return LEDGER.read_text()


@cache
def rows() -> list[Row]:
    return parse(text())


@cache
def facts() -> dict[str, list[str]]:
    """The rows of the table of facts: name to the other cells."""
    found = re.findall(r"^\| `fact: ([^`]+)` (\|.*)$", text(), flags=re.MULTILINE)
    return {name: _cells(rest) for name, rest in found}


@cache
def config_keys() -> frozenset[str]:
    return frozenset(yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"])


@cache
def make_targets() -> frozenset[str]:
    found = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return frozenset(found[1].split() if found else ())


def is_path(name: str) -> bool:
    file = name.split("::")[0]
    if not re.fullmatch(r"\.?\w[\w./-]*", file):
        return False
    return "/" in file or file.endswith(SUFFIXES) or file in FILES_WITHOUT_SUFFIX


def missing(name: str) -> str | None:
    """What is wrong with `name`, the text between two backticks: "" for a thing that exists, None for other code."""
    kind, _, value = name.partition(": ")
    if kind == "config":
        return "" if value in config_keys() else f"{value} is no key of Pulumi.yaml"
    if kind == "check":
        return "" if value in checks.NAMES else f"{value} is no check: expected one of {', '.join(checks.NAMES)}"
    if kind == "fact":
        return "" if value in facts() else f"{value} is no fact of the ledger"
    if name.startswith("make "):
        target = name.removeprefix("make ")
        return "" if target in make_targets() else f"{target} is no target of the Makefile"
    if not is_path(name):
        return None
    file, _, test = name.partition("::")
    if not (ROOT / file).exists():
        return f"there is no {file}"
    if test and test not in _functions(ROOT / file):
        return f"{file} has no {test}"
    return ""


def _functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def problems(row: Row) -> list[str]:
    """Everything that is wrong with a row, in words."""
    facts_named = [name for name in _quoted(row.where) if name.startswith("fact: ")]
    wrong = {
        "has an empty cell": not all((row.id, row.says, row.status, row.where)),
        f"has the unknown status {row.status!r}": row.status not in STATUSES,
        "has an id of another document": re.fullmatch(rf"{LETTERS.get(row.document)}\d+\.\d+", row.id) is None,
        "names nothing of this repository": row.status in ("kept", "replaced") and not row.things,
        "names no fact that contradicts it": row.status == "dropped" and not facts_named,
        "does not say which later work brings it": row.status == "later" and not row.where.startswith(LATER),
        "does not say that it says nothing to do": row.status == "n/a"
        and not row.where.startswith("Says nothing to do: "),
    }
    found = [f"{row.id} {problem}" for problem, holds in wrong.items() if holds]
    return found + [f"{row.id}: {problem}" for name in _quoted(row.says + row.where) if (problem := missing(name))]


def test_every_row_is_whole_and_names_what_exists() -> None:
    found = [problem for row in rows() for problem in problems(row)]
    assert not found, "\n".join(found)


def test_no_row_of_the_blueprint_is_lost() -> None:
    counts = Counter(row.document for row in rows())
    assert set(counts) == set(COUNTED)
    assert {document for document, least in COUNTED.items() if counts[document] < least} == set()


def test_row_ids_are_unique() -> None:
    assert [id_ for id_, times in Counter(row.id for row in rows()).items() if times > 1] == []


def test_rows_stand_in_the_order_of_the_blueprint() -> None:
    for document, letter in LETTERS.items():
        ids = [row.id.removeprefix(letter) for row in rows() if row.document == document]
        assert ids == sorted(ids, key=lambda id_: tuple(map(int, id_.split("."))))


def test_everything_named_outside_the_rows_exists_too() -> None:
    prose = [line for line in text().splitlines() if not re.match(r"\| [OCDP]\d", line)]
    found = [problem for line in prose for name in _quoted(line) if (problem := missing(name))]
    assert not found, "\n".join(found)


def test_every_fact_has_a_source_and_is_used() -> None:
    used = {name.removeprefix("fact: ") for row in rows() for name in _quoted(row.where) if name.startswith("fact: ")}
    assert {name for name, cells in facts().items() if len(cells) != 2 or not all(cells)} == set()
    assert set(facts()) - used == set()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (Row("Overview", "O1.1", "", "kept", "`README.md`"), "has an empty cell"),
        (Row("Overview", "O1.1", "x", "done", "`README.md`"), "unknown status 'done'"),
        (Row("Overview", "D1.1", "x", "kept", "`README.md`"), "id of another document"),
        (Row("Overview", "O1.1", "x", "kept", "somewhere"), "names nothing of this repository"),
        (Row("Overview", "O1.1", "x", "replaced", "`fact: load-mode`"), "names nothing of this repository"),
        (Row("Overview", "O1.1", "x", "kept", "`no/such/file.py`"), "there is no no/such/file.py"),
        (Row("Overview", "O1.1", "x", "kept", "`settings.py::test_nothing`"), "has no test_nothing"),
        (Row("Overview", "O1.1", "x", "kept", "`config: paralel`"), "paralel is no key"),
        (Row("Overview", "O1.1", "x", "kept", "`check: nothing`"), "nothing is no check"),
        (Row("Overview", "O1.1", "x", "kept", "`make nothing`"), "nothing is no target"),
        (Row("Overview", "O1.1", "x", "dropped", "not needed"), "names no fact"),
        (Row("Overview", "O1.1", "x", "dropped", "`fact: nothing`"), "nothing is no fact"),
        (Row("Overview", "O1.1", "x", "later", "Later: one day"), "which later work"),
        (Row("Overview", "O1.1", "x", "n/a", "a link"), "says nothing to do"),
    ],
)
def test_a_bad_row_is_found(row: Row, problem: str) -> None:
    assert [found for found in problems(row) if problem in found]


def test_a_row_with_a_cell_too_few_is_found() -> None:
    with pytest.raises(ValueError, match="has 3 cells"):
        parse(f"## Overview\n| {' | '.join(HEADER)} |\n|---|---|---|---|\n| O1.1 | x | kept |\n")
