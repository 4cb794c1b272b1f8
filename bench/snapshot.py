"""How large a snapshot is: the files that one leaves, against the memory that llama-server has in it.

    python -m bench.snapshot

For the stand-in and for a model of a gigabyte. One minute.
"""

from __future__ import annotations

from bench import starts
from bench.model import gigabyte
from bench.stack import line, say
from tests.deployed import carried_model, cloud_with, deployed
from tests.stack import CACHE
from tools.cached_builds import default_tag, ensure_build


def main() -> None:
    """Print both sizes and their ratio for each model."""
    build = ensure_build(default_tag(), say)
    models = {"the stand-in": carried_model(), "a model of 1 GB": gigabyte(CACHE)}
    with cloud_with(build, *models.values()) as cloud:
        for app, (name, (spec, _)) in zip(("small", "large"), models.items(), strict=True):
            with deployed(cloud, app, build, spec) as server:
                resident = starts.ready(server).resident_mib
                files = [file for file in (cloud.home / "snapshots").rglob("*") if file.is_file()]
                if not files:
                    raise SystemExit("there is no snapshot on this machine: `python -m local_cloud status` says why")
                size = sum(file.stat().st_size for file in files) / 2**20
                line(f"snapshot of {name}", f"{size:,.0f} MiB")
                line("  llama-server's resident memory in it", f"{resident:,.0f} MiB")
                # its program is mapped from a file and not part of the snapshot; Python is
                line("  more in the snapshot than that", f"{size - resident:,.0f} MiB")
                line("  ratio", f"{size / resident:.2f}")


if __name__ == "__main__":
    main()
