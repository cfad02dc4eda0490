"""An index of packages that tests make as they need them: no other one in the world has them."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "%(name)s-1.0-%(tag)s.whl"
    info = "%(name)s-1.0.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("%(name)s.py", "SAYS = 'built'\\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: %(name)s\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: %(tag)s\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


class Index:
    """A folder of packages that no index in the world has, and the only one that is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """What makes uv and pip ask it, and nobody else."""
        own = {"UV_FIND_LINKS": str(self.folder), "UV_NO_INDEX": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
        return {**own, "UV_CACHE_DIR": str(self.folder.parent / "uv-cache")}

    def wheel(self, name: str, version: str = "1.0", tag: str = "py3-none-any") -> None:
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(self.folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", f"SAYS = {version!r}\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n")
            wheel.writestr(f"{info}/RECORD", "")

    def source(self, name: str, tag: str) -> None:
        """A source distribution that makes a wheel with this tag."""
        files = {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            f'[project]\nname = "{name}"\nversion = "1.0"\n',
            "backend.py": BACKEND % {"name": name, "tag": tag},
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        }
        with tarfile.open(self.folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
            for path, text in files.items():
                entry = tarfile.TarInfo(f"{name}-1.0/{path}")
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))

    @contextmanager
    def served(self, *, late: str, missing: int) -> Iterator[dict[str, str]]:
        """The folder over HTTP: what makes uv ask it. The second page and those after it, `missing` in all, lack the file `late`."""
        pages: list[str] = []

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/files/"):
                    self.send(folder.joinpath(self.path.removeprefix("/files/")).read_bytes(), "application/zip")
                    return
                pages.append(self.path)
                without = late if 1 < len(pages) <= 1 + missing else ""
                files = [f for f in sorted(folder.iterdir()) if f.name != without]
                links = [
                    f'<a href="/files/{f.name}#sha256={hashlib.sha256(f.read_bytes()).hexdigest()}">{f.name}</a>'
                    for f in files
                ]
                self.send("\n".join(links).encode(), "text/html")

            def send(self, content: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Cache-Control", "max-age=600")  # as the world's index says
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        folder = self.folder
        with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield {"UV_DEFAULT_INDEX": f"http://127.0.0.1:{server.server_port}/simple"}
            finally:
                server.shutdown()
