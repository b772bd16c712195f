"""A proxy before an HTTP server, in this process, that answers some requests in wrong ways and counts all."""

import http.client
import http.server
import random
import socket
import struct
import threading
import time
import urllib.parse

# In how many pieces a slow body comes, and with which pauses.
SLOW_PIECES, SLOW_PAUSE_SECONDS = 20, 0.1
PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>"
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle_one(self):
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        way = proxy.way_of(self.command)
        answer = self.relay_only if way == "right" else getattr(self, f"answer_{way}")
        answer(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_one

    def relay(self, body):
        """The answer of the server behind: status, headers, body."""
        behind = http.client.HTTPConnection(self.server.proxy.behind, timeout=60)
        try:
            behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    behind.putheader(name, value)
            behind.endheaders(body)
            answer = behind.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            behind.close()

    def relay_only(self, body):
        self.send(*self.relay(body))

    def send(self, status, headers, body):
        self.begin(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status, headers, length):
        self.send_response_only(status)
        own = ("content-length", "connection", "transfer-encoding", "keep-alive")
        for name, value in headers:
            # That of an answer to HEAD says how long the object is.
            if name.lower() not in own or (self.command == "HEAD" and name.lower() == "content-length"):
                self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def answer_slow_down(self, _):
        self.send(503, [("Content-Type", "application/xml")], SLOW_DOWN)

    def answer_too_many(self, _):
        self.send(429, [("Retry-After", str(self.server.proxy.retry_after))], SLOW_DOWN)

    def answer_error(self, _):
        self.send(500, [("Content-Type", "application/xml")], ERROR)

    def answer_lost(self, body):
        """What was asked is done, and the answer says that it was not."""
        self.relay(body)
        self.send(500, [("Content-Type", "application/xml")], ERROR)

    def answer_page(self, _):
        self.send(200, [("Content-Type", "text/html")], PAGE)

    def answer_missing_page(self, _):
        self.send(404, [("Content-Type", "text/html")], PAGE)

    def answer_reset(self, body):
        """The connection ends with a reset, before or after the request is done."""
        if random.random() < 0.5:
            self.relay(body)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def answer_truncated(self, body):
        """Half of the body, then the end."""
        status, headers, answer = self.relay(body)
        self.begin(status, headers, len(answer))
        if self.command != "HEAD":
            self.wfile.write(answer[: len(answer) // 2])
        self.close_connection = True

    def answer_slow(self, body):
        """Everything, piece by piece."""
        status, headers, answer = self.relay(body)
        time.sleep(SLOW_PAUSE_SECONDS)
        self.begin(status, headers, len(answer))
        if self.command != "HEAD":
            size = max(1, len(answer) // SLOW_PIECES)
            for at in range(0, len(answer), size):
                self.wfile.write(answer[at : at + size])
                time.sleep(SLOW_PAUSE_SECONDS)

    def finish(self):
        try:
            super().finish()
        except OSError:
            pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """Clients may go at any time."""


WAYS = ["slow_down", "too_many", "error", "lost", "page", "missing_page", "reset", "truncated", "slow"]


class Proxy:
    """Before the server at `endpoint`. Of all requests the `share` is answered in one of `ways`, the others are passed on."""

    def __init__(self, endpoint, seed=1):
        self.behind = urllib.parse.urlsplit(endpoint).netloc
        self.ways, self.share, self.retry_after = [], 0.0, 1
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        # When, which method, and how it was answered.
        self.seen = []
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.proxy = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, ways, share=1.0, retry_after=1):
        with self.lock:
            self.ways, self.share, self.retry_after = list(ways), share, retry_after

    def way_of(self, method):
        with self.lock:
            wrong = self.ways and self.chance.random() < self.share
            way = self.chance.choice(self.ways) if wrong else "right"
            if method == "HEAD" and way == "missing_page":
                # An answer to HEAD has no body, so nothing tells this from a missing object.
                way = "error"
            self.seen.append((time.monotonic(), method, way))
            return way

    def since(self, at):
        """The requests after `at`."""
        with self.lock:
            return [seen for seen in self.seen if seen[0] >= at]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def most_in_a_second(times):
    """The most of `times`, sorted, that lie within any one second."""
    begin, most = 0, 0
    for end, at in enumerate(times):
        while at - times[begin] >= 1.0:
            begin += 1
        most = max(most, end - begin + 1)
    return most
