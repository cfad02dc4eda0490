"""moto's S3 server on a free port of the loopback, as a process of its own: `python s3_server.py [--deaf] [--expired FILE]`. Prints its port.

One request at a time: moto looks at a condition and writes in two steps, and two threads could both pass the first. S3 does it in one.
`--deaf` takes If-Match and If-None-Match off every request before moto sees it, as an old S3 server would not heed them.
`--expired FILE`: while that file is there, every request is answered as S3 answers credentials that have expired.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")


EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


def main(deaf: bool, expired: Path | None) -> None:
    inner = DomainDispatcherApplication(create_backend_app)
    mutex = threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if expired is not None and expired.exists():
            start("400 Bad Request", [("content-type", "application/xml"), ("content-length", str(len(EXPIRED)))])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [EXPIRED]
        if deaf:
            for name in CONDITIONS:
                environ.pop(name, None)
        # Before the mutex: a client that is paused while it sends holds nobody up.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        with mutex:
            return list(inner(environ, start))

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main("--deaf" in sys.argv, Path(sys.argv[sys.argv.index("--expired") + 1]) if "--expired" in sys.argv else None)
