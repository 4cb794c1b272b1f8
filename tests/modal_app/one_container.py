"""A serving container without a platform around it: `one_container.py RELEASE_FILE`.

It does what Modal's entrypoint does with the hooks of a server (observed with modal 1.6.4): `start` and `resume` in the main
thread without a handler of its own for SIGTERM, then one that ends the serving, and that is gone when `stop` runs. Between
`start` and `resume` it waits for a line on stdin.
"""

import asyncio
import signal
import sys
from pathlib import Path

from modal_app.container import Container
from modal_app.errors import Failure
from modal_app.lines import say
from modal_app.release import Release


async def serve() -> None:
    """Return at the first SIGTERM."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    say("serving")
    await over.wait()
    loop.remove_signal_handler(signal.SIGTERM)


container = Container(Release.model_validate_json(Path(sys.argv[1]).read_text()), "main")
try:
    container.start()
    say("started")
    sys.stdin.readline()
    container.resume()
except Failure as error:
    sys.exit(f"failed: {error}")
asyncio.run(serve())
container.stop()
