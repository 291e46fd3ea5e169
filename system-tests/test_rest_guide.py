"""The guide's commands, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from harness import BINARY

GUIDE = Path(__file__).parent.parent / "docs/rest-api.md"


def test_the_guides_commands_run_as_written(tmp_path: Path) -> None:
    """In a fresh directory, one after the other; the first that fails ends the test."""
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    # The usual port may be another server's here.
    port = 20000 + os.getpid() % 20000
    script = "set -eu\n" + "\n".join(blocks).replace("127.0.0.1:8440", f"127.0.0.1:{port}")
    binary = Path(subprocess.run(["which", BINARY], capture_output=True, text=True, check=True).stdout.strip()).resolve()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dormouse").symlink_to(binary)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DORMOUSE_", "SPECTRA_"))}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=clean | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "panicked" not in done.stderr
    for line in ('"status":"COMPLETED"', '"state":"Open"', "key,timestamp", "401"):
        assert line in done.stdout, f"{line} is not in\n{done.stdout}"
    with (tmp_path / "results.csv").open() as rows:
        assert sum(1 for _ in rows) > 10_000
