"""Every example in README and docs is run: fenced `sh` and `python` blocks, in order, one folder a page."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = [page for page in PAGES if BLOCK.search(page.read_text())]
PORT = "8765"  # of the service, in the pages
NOT_RUN = ("make ", "pip install", "git clone", "cd ")  # setting up, and what CI runs anyway


@pytest.mark.slow
@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples(page, tmp_path):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for language, text in BLOCK.findall(page.read_text().replace(PORT, port)):
        if language == "sh":
            text = "\n".join(line for line in text.splitlines() if not line.startswith(NOT_RUN))
            text = (
                f"trap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{text}"  # a service, if all went not well
            )
            words = ["bash", "-euo", "pipefail", "-c", text]
        else:
            words = [sys.executable, "-c", text]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=os.environ | {"PATH": programs},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_links_inside_the_documentation_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
