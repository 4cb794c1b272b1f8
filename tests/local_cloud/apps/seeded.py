"""An App that makes a finished artifact on a Volume."""

from __future__ import annotations

from pathlib import Path

import modal

app = modal.App("seeded")
volume = modal.Volume.from_name("seeded", create_if_missing=True)


@app.function(volumes={"/artifacts": volume})
def finish(name: str) -> None:
    artifact = Path("/artifacts", name)
    artifact.mkdir()
    (artifact / "manifest.json").write_text('{"made": "here"}')
    volume.commit()
