"""What the providers make of Modal's failures."""

from __future__ import annotations

import pytest
from grpclib.exceptions import StreamTerminatedError

from providers.cloud import known_failures
from providers.errors import ProviderError


@pytest.mark.parametrize(
    "error", [StreamTerminatedError("Connection lost"), ConnectionResetError(104, "reset by peer")]
)
def test_connection_lost_in_the_middle_of_an_answer_is_one_line_that_says_what_to_do(error: Exception) -> None:
    with (
        pytest.raises(
            ProviderError, match=r"^Modal cannot be reached \(.*\): expected it to answer: run the same"
        ) as failed,
        known_failures(),
    ):
        raise error
    assert "\n" not in str(failed.value)
