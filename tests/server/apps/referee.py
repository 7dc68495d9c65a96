"""An API under somebody else's rate limiting: Flask-Limiter's moving window, in memory, with its headers on.

`python -m tests.server.apps.referee "1000 per 10 second"` prints its port; with a second word it tells of its limit by
Retry-After only. `/judged` answers every request as [unix time, status, its ?who=], and how long this process was kept
from running.
"""

from __future__ import annotations

import logging
import sys
import time

from flask import Flask, Response, jsonify, request
from flask_limiter import HeaderNames, Limiter
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.stalls import Stalls

WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections are kept
logging.getLogger("werkzeug").setLevel(logging.ERROR)


TOLD = (HeaderNames.LIMIT, HeaderNames.REMAINING, HeaderNames.RESET)


def serve(limit: str, *, silent: bool) -> None:
    app = Flask(__name__)
    limiter = Limiter(
        lambda: "everybody",
        app=app,
        default_limits=[limit],
        strategy="moving-window",
        storage_uri="memory://",
        headers_enabled=True,
        header_name_mapping={name: f"X-Unread-{name.name}" for name in TOLD} if silent else {},
    )
    stalls = Stalls()
    stalls.start()
    seen: list[tuple[float, int, str]] = []

    @app.get("/")
    def answer() -> str:
        return "done"

    @app.get("/judged")
    @limiter.exempt
    def judged() -> Response:
        return jsonify(seen=seen, stall=stalls.longest)

    @app.after_request
    def note(response: Response) -> Response:
        if request.path == "/":
            seen.append((time.time(), response.status_code, request.args["who"]))
        return response

    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], silent=len(sys.argv) > 2)
