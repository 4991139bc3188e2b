"""The site builds, and a warning is an error: no broken link, no page that nobody can find, nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a browser would fetch by itself: scripts, styles, fonts and pictures with an address of another machine.
FETCHED = re.compile(r"""<(?:script|img|iframe)[^>]+src=["'](?:https?:)?//|<link[^>]+href=["'](?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).with_name("mkdocs")
    # Without --quiet, which keeps mkdocs from counting the warnings that --strict fails on.
    ran = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def test_every_page_is_there(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    built = {path.parent.relative_to(site).as_posix() for path in site.rglob("index.html")}
    assert pages - {"index"} <= built
    assert (site / "index.html").is_file()


def test_a_browser_fetches_nothing_from_elsewhere(site):
    fetching = [path.relative_to(site).as_posix() for path in site.rglob("*.html") if FETCHED.search(path.read_text())]
    assert not fetching
    assert FETCHED.search('<script src="https://example.com/a.js">')
