"""The API beside its own OpenAPI document, by schemathesis."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import rest
from harness import Instance
from test_rest import filled

Make = Callable[..., Instance]

# SQL is free text to a schema: most of what fits it is no query, and is answered with 400. And a client may have an answer
# already (304).
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "304", "400", "401", "403", "404", "409", "410", "422", "429", "503", "504"]
"""


@pytest.mark.parametrize("examples", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_schemathesis_finds_nothing(make_instance: Make, tmp_path: Path, examples: int) -> None:
    instance = filled(make_instance, bulk_max_open_jobs="1000")
    instance.run("tenant", "create", "acme")
    key = instance.json("key", "create", "acme", "--scope", "admin:*")["text"]
    instance.run("table", "set", "events", "dormouse.table.shared=true")
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    with rest.serve(instance) as api:
        done = subprocess.run(
            [
                *(rest.CLIENTS / "bin/st", "--config-file", config, "run", f"{api.url}/openapi.json"),
                *("-H", f"Authorization: Bearer {key}", "--checks", "all", "--seed", "1", "--max-examples", str(examples)),
                *("-H", "X-Tenant-ID: acme", "--request-timeout", "70", "--max-response-time", "70"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--no-color", "--continue-on-failure"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
