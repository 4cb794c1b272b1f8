"""Deploys one app, in a process of its own: `python -m modal_app.deploy server|jobs [--parent PID]`.

A description (`Deployment` or `JobsDeployment`, JSON) comes on stdin. What Modal says goes to stderr. On success stdout has
one JSON line (`app_name`, `app_id`, and `url` of a server) and the exit status is 0; on a known failure the last line on
stderr is `error: ...` and the status is 1.

A process of its own, because Modal's decorators bind their settings when a module is imported, and a Pulumi provider serves
many releases; and because a child with its own output can be watched and ended. With `--parent`, it ends by itself as soon as
that process is no longer its parent.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import threading
import time
from contextlib import redirect_stdout
from typing import Any

from pydantic import ValidationError

from modal_app import described
from modal_app.described import JobsDeployment
from modal_app.errors import Failure, missing_environment
from modal_app.release import SERVER_NAME, Deployment

__all__ = ["deploy", "main"]

KINDS: dict[str, tuple[type[Deployment] | type[JobsDeployment], str]] = {
    "server": (Deployment, "modal_app.server"),
    "jobs": (JobsDeployment, "modal_app.jobs"),
}

PARENT_LOOK_SECONDS = 0.2


def deploy(kind: str, text: str) -> dict[str, Any]:
    """Deploy the app that `text` describes and say what it is. Once a process. Raises Failure for what somebody can mend."""
    model, module = KINDS[kind]
    try:
        description = model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Failure(
            f"the description on stdin is no {model.__name__} ({where}: {first['msg']}): expected its JSON"
        ) from None
    os.environ.update(described.encoded(description))
    import modal

    try:
        app = importlib.import_module(module).app
        # nobody watches a terminal here: no colours, no spinner, no wrapping
        with redirect_stdout(sys.stderr), modal.enable_output():
            try:
                app.deploy(environment_name=description.environment)
            except modal.exception.ConflictError:
                if kind != "jobs":
                    raise
                # another `up` made the shared app at the same moment; now that it is there, this deploy finds it
                app.deploy(environment_name=description.environment)
        result = {"app_name": app.name, "app_id": app.app_id}
        if isinstance(description, Deployment):
            server = modal.Server.from_name(app.name, SERVER_NAME, environment_name=description.environment)
            result["url"] = server.get_url()
    except modal.exception.NotFoundError as error:
        raise Failure(_not_found(error, description.environment)) from None
    except modal.exception.AuthError as error:
        raise Failure(f"Modal refused the credentials ({error}): expected a valid token: run `modal setup`") from None
    except modal.exception.ConnectionError as error:
        raise Failure(f"Modal cannot be reached ({error}): expected it to answer: run the same command again") from None
    except modal.exception.ImageBuildError as error:
        raise Failure(
            f"an image of {description.app_name!r} could not be built ({error}): see the lines before this"
        ) from None
    except (modal.exception.InvalidError, modal.exception.PermissionDeniedError) as error:
        raise Failure(f"Modal refused the app {description.app_name!r} ({error}): expected it to be accepted") from None
    return result


def _not_found(error: Exception, environment: str) -> str:
    text = str(error).strip()
    if missing_environment(text):
        return f"{text}: expected the environment to exist: make it with `modal environment create {environment}`"
    return f"Modal did not find what the app needs: {text}: run `pulumi up --refresh`, which makes what is missing"


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_LOOK_SECONDS)
    os._exit(1)  # nobody is left to read what it would say


def main() -> int:
    """Read stdin, deploy, answer."""
    parser = argparse.ArgumentParser(description="Deploy one app; its description comes on stdin as JSON.")
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--parent", type=int, help="end when this process is no longer the parent")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        threading.Thread(target=_end_with, args=(arguments.parent,), name="end with the parent", daemon=True).start()
    try:
        result = deploy(arguments.kind, sys.stdin.read())
    except Failure as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # a failed deploy leaves the client's own child running (git, for the commit), and the interpreter's shutdown would
    # report its end after the error line, which has to be the last one (observed with modal 1.6.4)
    os._exit(status)
