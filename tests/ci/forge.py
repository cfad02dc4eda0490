"""The few endpoints of GitHub's and GitLab's REST APIs that the actions use, on a real local HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghs_token-of-the-job"
LONGEST = 65_536
"""Characters that GitHub takes in a comment or an issue; more is an error 422."""


@dataclass
class Forge:
    """What was written to it. Things have `number` and `id` (GitHub), or `iid` and `id` (GitLab)."""

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  #: `METHOD path`, those that failed too
    refuses: bool = False

    def writes(self) -> list[str]:
        return [r for r in self.requests if not r.startswith("GET")]


@contextmanager
def forge(kind: str) -> Iterator[Forge]:
    """A server of its own: `github` or `gitlab`."""
    made = Forge()
    answers = {"github": _github, "gitlab": _gitlab}[kind]
    tokens = {"github": ("authorization", f"Bearer {TOKEN}"), "gitlab": ("private-token", TOKEN)}[kind]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            made.requests.append(f"{self.command} {self.path}")
            if self.headers.get(tokens[0]) != tokens[1] or made.refuses:
                status, answer = 403, {"message": "Resource not accessible by integration"}
            else:
                status, answer = answers(made, self.command, self.path, body)
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PATCH = do_PUT = handle_one

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _page(found: list[Any], query: dict[str, list[str]]) -> list[Any]:
    size, page = int(query["per_page"][0]), int(query["page"][0])
    return found[(page - 1) * size : page * size]


def _github(made: Forge, method: str, target: str, body: dict[str, Any]) -> tuple[int, Any]:
    url = urlsplit(target)
    query = parse_qs(url.query)
    if len(body.get("body", "")) > LONGEST:
        return 422, {"message": "Validation Failed"}
    bot = {"type": "Bot", "login": "github-actions[bot]"}
    match method, url.path.removeprefix("/repos/acme/shop/").split("/"):
        case "GET", ["issues", "7", "comments"]:
            return 200, _page(made.comments, query)
        case "POST", ["issues", "7", "comments"]:
            made.comments.append({"id": 500 + len(made.comments), "user": bot, "html_url": "…", **body})
            return 201, made.comments[-1]
        case "PATCH", ["issues", "comments", number]:
            return _change(made.comments, "id", number, body)
        case "GET", ["issues"]:
            return 200, _page([i for i in made.issues if i["state"] == query["state"][0]], query)
        case "POST", ["issues"]:
            made.issues.append({"number": 1 + len(made.issues), "state": "open", "user": bot, "html_url": "…", **body})
            return 201, made.issues[-1]
        case "PATCH", ["issues", number]:
            return _change(made.issues, "number", number, body)
        case _:
            return 404, {"message": "Not Found"}


def _gitlab(made: Forge, method: str, target: str, body: dict[str, Any]) -> tuple[int, Any]:
    url = urlsplit(target)
    query = parse_qs(url.query)
    me = {"id": 42, "username": "project_9_bot"}
    match method, url.path.strip("/").split("/"):
        case "GET", ["user"]:
            return 200, me
        case "GET", ["projects", "9", "merge_requests", "7", "notes"]:
            return 200, _page(made.comments, query)
        case "POST", ["projects", "9", "merge_requests", "7", "notes"]:
            made.comments.append({"id": 500 + len(made.comments), "author": me, **body})
            return 201, made.comments[-1]
        case "PUT", ["projects", "9", "merge_requests", "7", "notes", number]:
            return _change(made.comments, "id", number, body)
        case "GET", ["projects", "9", "issues"]:
            return 200, _page([i for i in made.issues if i["state"] == query["state"][0]], query)
        case "POST", ["projects", "9", "issues"]:
            made.issues.append({"iid": 1 + len(made.issues), "state": "opened", "author": me, **body})
            return 201, made.issues[-1]
        case "PUT", ["projects", "9", "issues", number]:
            event = {"close": {"state": "closed"}}.get(str(body.pop("state_event", "")), {})
            return _change(made.issues, "iid", number, {**body, **event})
        case _:
            return 404, {"message": "404 Not Found"}


def _change(things: list[dict[str, Any]], key: str, value: str, body: dict[str, Any]) -> tuple[int, Any]:
    for thing in things:
        if str(thing[key]) == value:
            thing.update(body)
            return 200, thing
    return 404, {"message": "Not Found"}
