"""What is shipped with the pages."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from agent import web

ROOT = Path(__file__).parents[2]
WEB = Path(web.__file__).parent
HTMX = "htmx-4.0.1.min.js"
HTMX_SHA256 = "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"
CSS_BYTES = 8 * 1024


def test_htmx_is_the_file_that_its_authors_released() -> None:
    """Its version is in its name. Before another one is taken: look at what changed."""
    body = (WEB / "static" / HTMX).read_bytes()
    assert hashlib.sha256(body).hexdigest() == HTMX_SHA256
    assert b'version="4.0.1"' in body
    licence = (WEB / "static" / "htmx-4.0.1.LICENSE.txt").read_text()
    assert "Zero-Clause BSD" in licence


def test_the_style_sheet_is_small() -> None:
    assert len((WEB / "static" / "style.css").read_bytes()) <= CSS_BYTES


def test_the_documentation_shows_every_picture_and_none_is_large() -> None:
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images" / "pages").iterdir()}
    shown = re.findall(r"\(images/pages/([^)]+)\)", (ROOT / "docs" / "pages.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(pictures)
    assert sum(pictures.values()) < 1_000_000


def test_the_wheel_and_the_source_archive_contain_what_the_pages_need(tmp_path: Path) -> None:
    files = {
        str(path.relative_to(ROOT))
        for folder in ("static", "templates")
        for path in (WEB / folder).rglob("*")
        if path.is_file()
    }
    assert {"agent/web/templates/base.html", f"agent/web/static/{HTMX}"} <= files
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True, timeout=240,
    )  # fmt: skip
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        assert files <= set(opened.namelist())
    with tarfile.open(archive) as opened:
        assert files <= {name.partition("/")[2] for name in opened.getnames()}
