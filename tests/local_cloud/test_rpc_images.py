"""What an image's Dockerfile commands mean to a container of the local cloud."""

from __future__ import annotations

import shlex

from hypothesis import given
from hypothesis import strategies as st

from local_cloud.modal.state.dockerfile import read_layer


def test_env_and_workdir_build_on_the_layer_below() -> None:
    layer = read_layer(
        ["FROM base", "ENV B=2 C='three words'", "ENV PATH=/opt/bin:$PATH", "WORKDIR src"],
        {"A": "1", "PATH": "/bin"},
        "/app",
    )
    assert layer.environ == {"A": "1", "B": "2", "C": "three words", "PATH": "/opt/bin:/bin"}
    assert layer.workdir == "/app/src"


def test_the_old_form_of_env_takes_the_rest_of_the_line() -> None:
    assert read_layer(["ENV NAME some words"], {}, "").environ == {"NAME": "some words"}


def test_a_command_over_several_lines_is_one_command() -> None:
    layer = read_layer(["# a comment", "RUN apt-get update && \\", "    apt-get install -y git", "ENV A=1"], {}, "")
    assert [line for line in layer.log if line.startswith("=>")] == [
        "=> Step 0: RUN apt-get update &&     apt-get install -y git",
        "=> Step 1: ENV A=1",
    ]
    assert "not executed" in layer.log[1]


def test_an_env_that_cannot_be_read_is_said_and_not_guessed() -> None:
    layer = read_layer(["ENV A='open"], {}, "")
    assert layer.environ == {}
    assert "not understood" in layer.log[1]


def test_copied_files_go_where_the_command_says() -> None:
    assert read_layer(["WORKDIR /srv", "COPY . ."], {}, "").copies == ["/srv/."]
    assert read_layer(["COPY . /opt/data"], {}, "").copies == ["/opt/data"]


@given(
    st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), min_size=1).filter(
        lambda s: "$" not in s
    )
)
def test_whatever_the_client_quotes_arrives_as_it_was(value: str) -> None:
    assert read_layer([f"ENV NAME={shlex.quote(value)}"], {}, "").environ == {"NAME": value}
