"""The page of a release: one file that holds all a reviewer asks for, and nothing that is not there."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import checks
from report import release_page
from report.plots import Samples, Segment, latency, seconds, timeline

PROOF: dict[str, Any] = json.loads((Path(__file__).parent / "proof.json").read_text())
"""Written by `pulumi up` on the local stack, on a machine that takes snapshots."""

VOID = {"meta"}


class Reader(HTMLParser):
    """Collects what a browser would make of a page; a tag that is not closed in its place fails the test."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def changed(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(PROOF), **fields}


def with_check(name: str, **fields: Any) -> dict[str, Any]:
    proof = changed()
    for record in proof["checks"]:
        if record["name"] == name:
            record.update(fields)
    return proof


def test_the_page_needs_nothing_but_itself() -> None:
    page = release_page(PROOF)
    tags = Reader(page).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    assert [attrs for _, attrs in tags if {"src", "href", "srcset"}.intersection(attrs)] == []
    assert re.findall(r"url\(|@import|https?://|\son\w+=", page) == []


def test_every_check_is_there_with_what_was_sent_expected_and_got() -> None:
    words = Reader(release_page(PROOF)).words
    assert {record["name"] for record in PROOF["checks"]} == set(checks.NAMES)
    for record in PROOF["checks"]:
        for field in ("name", "sent", "expected", "got"):
            assert " ".join(record[field].split()) in words


def test_the_phases_are_those_of_the_checklist() -> None:
    words = Reader(release_page(PROOF)).words
    places = [words.index(f"{phase}: {title}") for phase, title in checks.PHASES.items()]
    assert places == sorted(places)


def test_text_of_a_server_is_never_markup() -> None:
    evil = '<script>alert(1)</script>" onload="x & <b>'
    reader = Reader(release_page(with_check("text", got=evil, sent=evil)))
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.words.count("<script>alert(1)</script>") == 2


def test_each_start_is_drawn_to_the_scale_of_the_longest() -> None:
    reader = Reader(release_page(PROOF))
    starts = [s for r in PROOF["checks"] for s in r["figures"].get("starts", ())]
    assert [s["restored"] for s in starts] == [False, True, True]
    drawn = [attrs for tag, attrs in reader.tags if tag == "rect" and attrs["class"] in ("wait", "restore", "load")]
    ends = [float((a["x"] or "").rstrip("%")) + float((a["width"] or "").rstrip("%")) for a in drawn]
    assert len(drawn) >= len(starts) + 2
    assert all(0 < end <= 100 for end in ends)
    assert "Cold start started anew" in reader.words
    assert "After idle 2 restored from the snapshot" in reader.words


def test_the_figures_are_those_of_the_proof() -> None:
    words = Reader(release_page(PROOF)).words
    for record in PROOF["checks"]:
        for summary in (record["figures"].get("first_token_seconds"), record["figures"].get("total_seconds")):
            if summary:
                assert f"{seconds(summary['median'])} {seconds(summary['p95'])} {summary['n']}" in words
        if memory := record["figures"].get("memory_mib"):
            assert f"{memory['rss_mib']:,.1f} MiB" in words
    assert f"{len(PROOF['checks'])} of {len(PROOF['checks'])} checks passed" in words


def test_a_platform_without_snapshots_is_not_said_to_restore() -> None:
    skipped = {"status": "skipped", "got": "no snapshot on this machine: runsc is not there", "figures": {}}
    words = Reader(release_page(with_check("restored after idle", **skipped))).words
    assert "no snapshot on this machine: runsc is not there" in words
    assert "not restored from a snapshot" in words
    assert "1 skipped" in words


def test_a_proof_without_figures_is_still_a_page() -> None:
    bare = [{**record, "figures": {}} for record in PROOF["checks"]]
    page = release_page(changed(checks=bare))
    assert [tag for tag, _ in Reader(page).tags if tag == "svg"] == []
    assert re.findall("<h2>(.*?)</h2>", page) == ["Checks"]


@pytest.mark.parametrize(
    ("value", "words"), [(0.0004, "0 ms"), (0.0264, "26 ms"), (0.9994, "999 ms"), (1.883, "1.88 s"), (12.58, "12.6 s")]
)
def test_seconds_are_for_people(value: float, words: str) -> None:
    assert seconds(value) == words


def test_a_segment_stands_where_it_happened() -> None:
    svg = timeline([Segment("wait", "waits", 0, 1), Segment("load", "loads", 1, 4)], 4, "a start")
    wait, load = (re.search(rf'class="{kind}" x="([\d.]+)%" y="5" width="([\d.]+)%"', svg) for kind in ("wait", "load"))
    assert wait is not None
    assert load is not None
    assert float(load[1]) == pytest.approx(float(wait[1]) + float(wait[2]), abs=0.02)
    assert float(load[2]) == pytest.approx(3 * float(wait[2]), abs=0.05)


def test_a_logarithmic_axis_gives_each_decade_the_same_room() -> None:
    svg = latency([Samples("first", "a", [0.02, 0.2, 2.0], 0.2, 2.0)], "latency")
    places = [float(x) for x in re.findall(r'<circle class="first" cx="([\d.]+)%"', svg)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.02)


def test_names_of_drawings_are_escaped() -> None:
    svg = timeline([Segment("wait", '<b>"', 0, 1)], 1, '"<i>')
    assert "<b>" not in svg
    assert "<i>" not in svg
