"""The page of a release, drawn from its proof (`proofs/<release key>.json` on the builds Volume)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from checks import CHECKS, PHASES
from modal_app.release import release_alias
from report.plots import Bar, Samples, Segment, bars, latency, seconds, timeline

__all__ = ["release_page"]

Record = Mapping[str, Any]

WARM, COLD, IDLE = "first token, warm", "first token after a cold start", "first token after idle"
BEFORE, AFTER = "no model file mapped", "no model file mapped after waking"
RESTORED = "restored after idle"

PARTS = {
    "llama-server starting": ("load", "loads the model"),
    "healthy": ("warm", "is warmed"),
    "warmed": ("settle", "is made ready"),
    "snapshot begun": ("snapshot", "snapshot is taken"),
    "restoring": ("restore", "is restored"),
    "resumed": ("answer", "answers"),
    "first token": ("tokens", "goes on to the last token"),
}
"""What begins with a milestone of `checks.waking`: its class in `page.css`, and its words."""

WAIT = ("wait", "waits for a container")

MEMORY = {
    "rss_mib": "Resident memory of llama-server",
    "rss_file_mib": "of it backed by files",
    "locked_mib": "of it locked",
    "available_mib": "Free memory of the machine",
    "host_free_mib": "of it left to the container",
    "device_free_mib": "Free memory of the GPU",
}


def release_page(proof: Record) -> str:
    """One self-contained HTML document. Raises KeyError for a record that is no proof."""
    alias = release_alias(proof["release"])
    by_name = {record["name"]: record for record in proof["checks"]}
    body = "\n".join(
        (
            _head(proof, alias, by_name),
            _starts(by_name),
            _latency(by_name),
            _memory(by_name),
            _checks(proof["checks"]),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Release {escape(alias)}</title>\n"
        f"<style>\n{(Path(__file__).parent / 'page.css').read_text()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, about: str, *content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(about)}</p>\n" + "\n".join(content) + "\n</section>"


# ---- head


def _head(proof: Record, alias: str, by_name: Mapping[str, Record]) -> str:
    release = proof["candidate"]["release"]
    facts = {
        "app": f"{proof['candidate']['appName']} in {proof['candidate']['environment']}",
        "build": release["buildKey"],
        "model": release["modelKey"],
        "GPU": release.get("gpu") or "none",
        "snapshot": release.get("snapshot") or "none",
        "release": proof["release"],
        "proven": f"{str(proof['proven']).replace('+00:00', 'Z')} in {proof['seconds']:.0f} s",
    }
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())
    tiles = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in _tiles(by_name)
    )
    return (
        f'<header>\n<h1>Release <code>{escape(alias)}</code></h1>\n<div class="tiles">{tiles}</div>\n'
        f'<dl class="facts">{rows}</dl>\n</header>'
    )


def _tiles(by_name: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
    statuses = [record["status"] for record in by_name.values()]
    skipped = f", {statuses.count('skipped')} skipped" if "skipped" in statuses else ""
    yield f"checks passed{skipped}", f"{statuses.count('passed')} of {len(statuses)}"
    for name, check in (("warm", WARM), ("after idle", IDLE), ("cold", COLD)):
        if summary := _figures(by_name, check).get("first_token_seconds"):
            yield f"to the first token, {name}", seconds(summary["median"])
    restored = by_name.get(RESTORED, {})
    yield (
        "from a snapshot",
        {"passed": "restored", "skipped": "not restored"}.get(restored.get("status", ""), "unknown"),
    )


def _figures(by_name: Mapping[str, Record], check: str) -> dict[str, Any]:
    return dict(by_name.get(check, {}).get("figures") or {})


# ---- starts


def _starts(by_name: Mapping[str, Record]) -> str:
    starts = [("Cold start", start) for start in _figures(by_name, COLD).get("starts", ())]
    idle = _figures(by_name, IDLE).get("starts", ())
    starts += [(f"After idle {number}", start) for number, start in enumerate(idle, 1)]
    if not starts:
        return ""
    parts = [(title, start, _segments(start)) for title, start in starts]
    longest = max(segment.end for _, _, segments in parts for segment in segments) or 1.0
    drawn = [_start(title, start, segments, longest) for title, start, segments in parts]
    about = "From the first request, which finds no container, to the answer, by the clocks of client, container and platform."
    why = by_name.get(RESTORED, {})
    note = f"<p><b>{escape(RESTORED)}</b>: {escape(why['got'])}</p>" if why else ""
    return _section("Starts", about, *drawn, note)


def _segments(start: Record) -> list[Segment]:
    milestones = [("", 0.0), *((name, float(at)) for name, at in start["milestones"])]
    return [
        Segment(*PARTS.get(name, WAIT), begin, end)
        for (name, begin), (_, end) in pairwise(milestones)
    ]  # fmt: skip


def _start(title: str, start: Record, segments: Sequence[Segment], longest: float) -> str:
    how = "restored from the snapshot" if start.get("restored") else "started anew"
    legend = "".join(
        f'<li><i class="{part.kind}"></i>{escape(part.label)} <b>{seconds(part.end - part.begin)}</b></li>'
        for part in segments
        if part.end - part.begin >= 0.0005
    )
    first = next((float(at) for name, at in start["milestones"] if name == "first token"), 0.0)
    heading = f"<h3>{escape(title)} <span>{escape(how)}; first token after {seconds(first)}</span></h3>"
    return f'<figure>{heading}\n{timeline(segments, longest, title)}\n<ul class="legend">{legend}</ul></figure>'


# ---- latency


def _latency(by_name: Mapping[str, Record]) -> str:
    rows, table = [], []
    for name, check in (("warm", WARM), ("after idle", IDLE), ("cold", COLD)):
        for kind, which in (("first", "first token"), ("last", "last token")):
            summary = _figures(by_name, check).get("first_token_seconds" if kind == "first" else "total_seconds")
            if summary:
                rows.append(Samples(kind, f"{name}, {which}", summary["samples"], summary["median"], summary["p95"]))
                table.append(
                    (f"{name}, {which}", seconds(summary["median"]), seconds(summary["p95"]), str(summary["n"]))
                )
    if not rows:
        return ""
    about = "A dot for each measurement; the thick line is the median, the thin one the 95th percentile. The axis is logarithmic."
    plot = f"<figure>{latency(rows, 'Latency')}</figure>"
    return _section("Latency", about, plot, _table(("", "median", "p95", "n"), table))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<table class="numbers"><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table>'


# ---- memory


def _memory(by_name: Mapping[str, Record]) -> str:
    moments = {"before the snapshot": _figures(by_name, BEFORE), "after waking": _figures(by_name, AFTER)}
    drawn = []
    for key, title in MEMORY.items():
        found = [(moment, figures.get("memory_mib", {}).get(key)) for moment, figures in moments.items()]
        rows = [Bar(moment, value, f"{value:,.1f} MiB") for moment, value in found if value is not None]
        if rows:
            drawn.append(f"<figure><h3>{escape(title)}</h3>\n{bars(rows, title)}</figure>")
    mapped = [(moment, str(f["model_files_mapped"])) for moment, f in moments.items() if "model_files_mapped" in f]
    if mapped:
        drawn.append(f"<figure><h3>Model files mapped</h3>{_table(('', 'files'), mapped)}</figure>")
    if not drawn:
        return ""
    about = "As the container read it from /proc. Weights must be in the server's own memory: a snapshot holds no mapped file."
    return _section("Memory", about, f'<div class="columns">{"".join(drawn)}</div>')


# ---- checks


def _checks(records: Sequence[Record]) -> str:
    groups = []
    for phase, title in PHASES.items():
        rows = [record for record in records if record["name"] in CHECKS and CHECKS[record["name"]].phase == phase]
        if rows:
            groups.append(f'<tr class="phase"><th colspan="5">{phase}: {escape(title)}</th></tr>')
            groups += map(_check, rows)
    head = "".join(f"<th>{title}</th>" for title in ("check", "sent", "expected", "got", "time"))
    table = f'<table class="checks"><thead><tr>{head}</tr></thead><tbody>\n' + "\n".join(groups) + "\n</tbody></table>"
    return _section("Checks", "Every check of this release, in the phases of the blueprint's checklist.", table)


def _check(record: Record) -> str:
    status = escape(str(record["status"]))
    cells = "".join(
        f'<td data-label="{name}">{escape(str(record.get(name) or "-"))}</td>' for name in ("sent", "expected", "got")
    )
    name = f'<td class="name">{escape(record["name"])} <em class="{status}">{status}</em></td>'
    return f'<tr>{name}{cells}<td data-label="time">{seconds(float(record["seconds"]))}</td></tr>'
