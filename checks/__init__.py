"""The release check: does an endpoint serve what its clients need?

```
results       CheckResult, and the two ways a check ends without passing
expectations  what the server must say of itself
endpoint      the one HTTP client: waits while a server at zero wakes, never shows the key
answers       what came back, with accessors that fail the check instead of raising KeyError
logs          what the platform and the supervisor wrote: lines, and events
prompts       one prompt set for the stand-in and the real model: answers are extracted, never compared whole
measure       the one place that times an endpoint
waking        the starts that a run causes, and what speaks for a restore
identity, process, access, text, parameters, sampling, thinking, tools, images, latency, restore      the checks
catalogue     every check by name: its phase, what it expects, its function
release_check run(), each() and wait_for_release()
```

`python -m ops check` runs it by hand against any endpoint.
"""

from checks.catalogue import CHECKS, NAMES, PHASES, unproven
from checks.endpoint import Endpoint, NotServing
from checks.expectations import Expectations
from checks.logs import LogLine
from checks.measure import Measurement, measure
from checks.release_check import each, run, wait_for_release
from checks.results import CheckResult

__all__ = [
    "CHECKS",
    "NAMES",
    "PHASES",
    "CheckResult",
    "Endpoint",
    "Expectations",
    "LogLine",
    "Measurement",
    "NotServing",
    "each",
    "measure",
    "run",
    "unproven",
    "wait_for_release",
]
