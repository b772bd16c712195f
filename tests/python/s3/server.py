"""An S3 server in memory, for tests: prints its address, and ends when its standard input does.

So it ends with whoever started it, however that ends.
"""

import sys
from threading import Lock, Thread

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server


class OneAtATime:
    """moto looks for an object and then creates it in two steps; `If-None-Match` needs them to be one."""

    def __init__(self, app):
        self.app = app
        self.lock = Lock()

    def __call__(self, environ, start_response):
        with self.lock:
            return self.app(environ, start_response)


class QuietHandler(MotoRequestHandler):
    # One connection for many requests, as real servers have it.
    protocol_version = "HTTP/1.1"

    def log_request(self, code="-", size="-"):
        pass


def main():
    app = OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
