"""Fetches a model's files at one commit, with huggingface_hub, and proves that they are what they should be.

huggingface_hub 2.4 does not look at the bytes it got, and a killed process leaves a partial file that nobody resumes or
removes (observed). So: finished files are kept between tries, partial ones removed, and every file is hashed against the
configuration and against the Hub's own digest before the manifest is written.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modal_app import artifacts
from modal_app.errors import Failure
from modal_app.lines import Report
from modal_app.release import ModelSpec

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["RETRY_SECONDS", "adopt", "fetch", "needed"]

RETRY_SECONDS = (30.0, 60.0, 90.0)
"""Pauses between tries. An hour of download sees a transient failure or two."""

FAST_XET_GIB = 64
"""HF_XET_HIGH_PERFORMANCE buys speed with memory and is meant for machines with this much (hub-docs, PR 2260)."""

SAY_SECONDS = 5.0


def fetch(
    spec: ModelSpec,
    models_root: Path,
    report: Report,
    *,
    pauses: Sequence[float] = RETRY_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Fetch `spec` into `<models_root>/<key>/` and return its manifest; a complete directory is left untouched.

    `HF_ENDPOINT` and `HF_TOKEN` are honoured. Raises Failure for what somebody can mend: a revision or file that is not
    there, a gated repository without its token, bytes that are not the expected ones after every try.
    """
    root = Path(models_root)
    if found := _found(root, spec, report):
        return found
    try:
        with (
            _known_failures(spec),
            artifacts.alone(root, report),
            artifacts.staging(root, spec.key, keep_on=_TransientError) as staged,
        ):
            if found := _found(root, spec, report):
                return found
            start = time.monotonic()
            for name in artifacts.sweep(root, keep=spec.key):
                report(f"removed what a killed download left: {name}")
            api = _api()
            for pause in pauses:
                try:
                    _try(api, spec, staged, report)
                    break
                except _TransientError as error:
                    report(f"failed: {error}; trying again in {pause:.0f} s")
                    sleep(pause)
            else:
                _try(api, spec, staged, report)
            seconds = round(time.monotonic() - start, 1)
            return artifacts.publish(staged, root, spec.key, needed(spec), spec=spec.props(), seconds=seconds)
    except _TransientError as error:
        raise Failure(
            f"{spec.repo} could not be fetched in {len(pauses) + 1} tries ({error}): expected the Hub to answer and every file "
            "to have its sha256: run the command again; finished files are kept"
        ) from None


def adopt(spec: ModelSpec, models_root: Path, report: Report) -> dict[str, Any]:
    """Take over `<models_root>/<key>/` as somebody else filled it, and return its manifest. Nothing in it is changed.

    Raises Failure when a file is missing or not the one that the Hub has at the commit.
    """
    start = time.monotonic()
    directory = Path(models_root) / spec.key
    digests = {}
    try:
        with _known_failures(spec):
            expected = _expected(_api(), spec)
    except _unreachable() as error:
        raise Failure(
            f"the Hub cannot be reached ({_first_line(error)}): expected its sha256 of every file: try again later"
        ) from None
    for name, file in expected.items():
        path = directory / name
        report(f"{name}: checking sha256")
        digest = artifacts.sha256(path) if path.is_file() else "none: it is missing"
        if digest != file.sha256:
            raise Failure(
                f"{spec.key}/{name} has sha256 {digest}, expected {file.sha256}: nothing was changed: put the right file there, "
                "or remove the directory"
            )
        digests[path] = digest
    seconds = round(time.monotonic() - start, 1)
    return artifacts.take_over(directory, digests, spec=spec.props(), seconds=seconds)


def needed(spec: ModelSpec) -> artifacts.Needed:
    """The files that a directory of this model must hold, with the sha256 that the configuration asks for."""
    return {file.path: file.sha256 for file in spec.files}


def _found(root: Path, spec: ModelSpec, report: Report) -> dict[str, Any] | None:
    found = artifacts.complete(root / spec.key, needed(spec))
    if found:
        report(f"{spec.key}: found, not downloaded")
    return found


class _TransientError(Exception):
    """May be better next time."""


@dataclass(frozen=True)
class _Expected:
    """What a file must be, according to the Hub and the configuration."""

    size: int
    sha256: str


def _api() -> HfApi:
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if memory_gib >= FAST_XET_GIB:
        os.environ.setdefault("HF_XET_HIGH_PERFORMANCE", "1")  # read when huggingface_hub loads hf_xet
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    return huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN") or False)


def _expected(api: HfApi, spec: ModelSpec) -> dict[str, _Expected]:
    """Ask the Hub what the files are at the commit, before any of them is downloaded."""
    from huggingface_hub import RepoFile

    infos = api.get_paths_info(spec.repo, [f.path for f in spec.files], revision=spec.revision)
    found = {info.path: info for info in infos if isinstance(info, RepoFile)}
    expected = {}
    for file in spec.files:
        info = found.get(file.path)
        if info is None:
            raise Failure(
                f"{spec.repo} has no file {file.path!r} at commit {spec.revision[:12]}: expected the names as on the Hub: "
                f"see https://huggingface.co/{spec.repo}/tree/{spec.revision}"
            )
        digest = info.lfs.sha256 if info.lfs else file.sha256
        if digest is None:
            raise Failure(
                f"the Hub has no sha256 of {file.path!r}: expected one to check it by: add it to the configuration"
            )
        if file.sha256 not in (None, digest):
            raise Failure(
                f"{file.path!r} of {spec.repo} has sha256 {digest}, expected {file.sha256}: correct the configuration, or do "
                "not use this commit"
            )
        expected[file.path] = _Expected(info.size, digest)
    return expected


def _try(api: HfApi, spec: ModelSpec, staged: Path, report: Report) -> None:
    """Fetch what is not there yet, then look at every byte. Raises _TransientError for what another try may mend."""
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError, XetDownloadError

    for partial in staged.glob(".cache/huggingface/download/**/*.incomplete"):
        partial.unlink()
    try:
        expected = _expected(api, spec)
        with _bytes_reported(staged, sum(e.size for e in expected.values()), report):
            api.snapshot_download(
                spec.repo, revision=spec.revision, allow_patterns=list(expected), local_dir=staged, max_workers=4
            )
    except HfHubHTTPError as error:
        if error.response.status_code < 500 and error.response.status_code != 429:
            raise
        raise _TransientError(_first_line(error)) from None
    except (_unreachable(), FileMetadataError, LocalEntryNotFoundError, XetDownloadError) as error:
        raise _TransientError(_first_line(error)) from None
    except OSError as error:  # a size that differs from the announced one
        if error.errno == errno.ENOSPC:
            raise
        raise _TransientError(_first_line(error)) from None
    wrong = [problem for path, file in expected.items() if (problem := _wrong(staged / path, path, file, report))]
    if wrong:
        raise _TransientError("; ".join(wrong))
    for path in expected:
        if path.endswith(".gguf"):
            _check_header(staged / path, path)


def _unreachable() -> type[Exception]:
    from httpx2 import TransportError  # huggingface_hub's own HTTP client

    return TransportError


def _wrong(path: Path, name: str, expected: _Expected, report: Report) -> str | None:
    """What is wrong with a file that arrived; it is then removed, so that the next try fetches it again."""
    report(f"{name}: checking sha256")
    if not path.is_file():
        return f"{name} did not arrive"
    if (digest := artifacts.sha256(path)) == expected.sha256:
        return None
    path.unlink()
    return f"{name} has sha256 {digest}, expected {expected.sha256}"


def _check_header(path: Path, name: str) -> None:
    """A file that is what the Hub has may still be no GGUF, or be cut short where it was uploaded."""
    import gguf

    try:
        tensors = gguf.GGUFReader(path).tensors
    except Exception as error:  # gguf raises ValueError, KeyError, IndexError and numpy's own for a broken file
        raise Failure(
            f"{name} is no readable GGUF file ({_first_line(error)}): expected one: choose another file"
        ) from None
    if not tensors:
        raise Failure(f"{name} is a GGUF file without tensors: expected weights: choose another file")


@contextmanager
def _bytes_reported(staged: Path, total: int, report: Report) -> Iterator[None]:
    """Report every few seconds how much has arrived."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAY_SECONDS):
            sizes = (
                p.stat().st_size for p in staged.rglob("*") if p.is_file() and p.suffix in (".gguf", ".incomplete")
            )
            try:
                report(f"{sum(sizes) / 1e6:,.0f} of {total / 1e6:,.0f} MB")
            except FileNotFoundError:  # renamed between the listing and the look
                continue

    thread = threading.Thread(target=watch, name="download progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _known_failures(spec: ModelSpec) -> Iterator[None]:
    """Turn what the Hub says into one line that says what to do."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except GatedRepoError:
        given = "the token given has no access" if os.environ.get("HF_TOKEN") else "no token was given"
        raise Failure(
            f"{spec.repo} is gated and {given}: expected a token of somebody who accepted its conditions: "
            "pulumi config set --secret hfToken VALUE"
        ) from None
    except RevisionNotFoundError:
        raise Failure(
            f"{spec.repo} has no commit {spec.revision}: expected one of https://huggingface.co/{spec.repo}/commits: "
            "correct model.revision"
        ) from None
    except RepositoryNotFoundError:
        raise Failure(
            f"the Hub has no repository {spec.repo}, or hides it from this token: expected its full name: correct model.repo, "
            "or set hfToken if it is private"
        ) from None
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise Failure(
                f"the Hub refused the token ({_first_line(error)}): expected a valid one: "
                "pulumi config set --secret hfToken VALUE"
            ) from None
        raise Failure(
            f"the Hub answered {_first_line(error)}: expected the files of {spec.repo}: try again later"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Failure(
                f"the disk of {error.filename or 'the models'} is full: expected room for {spec.repo}: make room and try again"
            ) from None
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
