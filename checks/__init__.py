"""The release check: does an endpoint serve what its clients need?

```
results       CheckResult, and the two ways a check ends without passing
expectations  what the server must say of itself; what its log line `ready` says
endpoint      the one HTTP client: waits while a server at zero wakes, never shows the key
answers       what came back, with accessors that fail the check instead of raising KeyError
prompts       one prompt set for the stand-in and the real model: answers are extracted, never compared whole
identity, access, text, thinking, tools, images      the checks
measure       the one place that times an endpoint
release_check run(), each() and wait_for_release()
```

`python -m ops check` runs it by hand against any endpoint.
"""

from checks.endpoint import Endpoint, NotServing
from checks.expectations import Expectations
from checks.measure import Measurement, measure
from checks.release_check import NAMES, each, run, wait_for_release
from checks.results import CheckResult

__all__ = [
    "NAMES",
    "CheckResult",
    "Endpoint",
    "Expectations",
    "Measurement",
    "NotServing",
    "each",
    "measure",
    "run",
    "wait_for_release",
]
