"""Keeps one note on a merge request, or one issue, up to date. For GitLab CI; needs Python alone.

python3 ci/sticky.py note FILE            the merge request of this pipeline
python3 ci/sticky.py issue TITLE FILE     opened, or edited
python3 ci/sticky.py close FILE           the open issue, if there is one, gets FILE as its text and is closed

The first line of FILE is a marker by which it is found again, such as `<!-- falplan plan deploy -->`. What others wrote is never
touched. FALPLAN_GITLAB_TOKEN is a project access token with the scope `api`.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    match arguments:
        case ["note", file]:
            notes = f"{project()}/merge_requests/{os.environ['CI_MERGE_REQUEST_IID']}/notes"
            write(notes, "id", {"body": text(file)}, text(file))
        case ["issue", title, file]:
            write(f"{project()}/issues", "iid", {"title": title, "description": text(file)}, text(file))
        case ["close", file]:
            body = {"description": text(file), "state_event": "close"}
            write(f"{project()}/issues", "iid", body, text(file), create=False)
        case _:
            sys.exit(__doc__)


def write(url: str, key: str, body: dict[str, str], markdown: str, *, create: bool = True) -> None:
    """Edit what begins with the marker and is ours; make it where there is none."""
    me = call("GET", f"{api()}/user")["id"]
    marker = markdown.splitlines()[0]
    state = "state=opened&" if key == "iid" else ""
    page = 1
    while True:
        found = call("GET", f"{url}?{state}per_page=100&page={page}")
        for one in found:
            if one["author"]["id"] == me and (one.get("body") or one.get("description") or "").startswith(marker):
                call("PUT", f"{url}/{one[key]}", body)
                return
        if len(found) < 100:
            break
        page += 1
    if create:
        call("POST", url, body)


def call(method: str, url: str, body: dict[str, str] | None = None) -> Any:
    headers = {"private-token": os.environ["FALPLAN_GITLAB_TOKEN"], "content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {url}: {error.code} {error.reason}\n{error.read(2000).decode(errors='replace')}")


def api() -> str:
    return os.environ["CI_API_V4_URL"]


def project() -> str:
    return f"{api()}/projects/{os.environ['CI_PROJECT_ID']}"


def text(file: str) -> str:
    return Path(file).read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    main(sys.argv[1:])
