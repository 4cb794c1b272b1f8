"""Other code that somebody deploys by hand under the name of a stack's app."""

from __future__ import annotations

import os

import modal

app = modal.App(os.environ.get("APP_BY_HAND", "by-hand"))


@app.function()
def other() -> str:
    return "other code"
