"""A fake of Google Cloud Storage's XML API, in memory: `gcs_server.py BUCKET TOKEN` prints its address, and ends when its input does.

No server of others takes the requests that dstl makes. This one does what Google's reference of the XML API says of them, and no more:

* PUT of an object, `x-goog-if-generation-match: 0`: 412 where the object exists; else it is there, whole, at once. Without the
  condition it would replace, which dstl never asks for: 400.
* GET and HEAD of an object: 404 where there is none; `Range` gives 206, cut at the object's end, or 416 where it begins behind it.
* DELETE of an object: 204, or 404 where there is none.
* GET of the bucket, `list-type=2`: objects in order of the bytes of their names, 1,000 at most, `prefix`, `start-after`,
  `continuation-token`.
* Names of 1,024 bytes at most. 401 without the token, 404 for another bucket.
"""

import base64
import email.utils
import hashlib
import http.server
import sys
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

PAGE = 1000
LONGEST_NAME = 1024


class Refusal(Exception):
    def __init__(self, status, code):
        super().__init__(code)
        self.status, self.code = status, code


class Bucket:
    """Objects by name: bytes, generation and time of creation."""

    def __init__(self):
        self.lock = threading.Lock()
        self.objects = {}
        self.generation = 0

    def create(self, name, body):
        with self.lock:
            if name in self.objects:
                raise Refusal(412, "PreconditionFailed")
            self.generation += 1
            self.objects[name] = (body, self.generation, time.time())
            return self.objects[name]

    def find(self, name):
        with self.lock:
            found = self.objects.get(name)
        if found is None:
            raise Refusal(404, "NoSuchKey")
        return found

    def delete(self, name):
        with self.lock:
            if self.objects.pop(name, None) is None:
                raise Refusal(404, "NoSuchKey")

    def page(self, prefix, after):
        """Names and objects of one page, and whether there are more."""
        with self.lock:
            found = sorted((name.encode(), name) for name in self.objects if name.startswith(prefix))
            names = [name for order, name in found if order > after.encode()]
            return [(name, self.objects[name]) for name in names[:PAGE]], len(names) > PAGE


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and bodies are written one after the other.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        bucket, _, name = url.path.removeprefix("/").partition("/")
        try:
            self.check(urllib.parse.unquote(bucket))
            self.serve(urllib.parse.unquote(name), dict(urllib.parse.parse_qsl(url.query)), body)
        except Refusal as refusal:
            text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{refusal.code}</Code></Error>"
            self.answer(refusal.status, text.encode(), {"Content-Type": "application/xml"})

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_one

    def check(self, bucket):
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            raise Refusal(401, "AuthenticationRequired")
        if bucket != self.server.bucket_name:
            raise Refusal(404, "NoSuchBucket")

    def serve(self, name, query, body):
        bucket = self.server.bucket
        if not name and self.command == "GET" and query.get("list-type") == "2":
            self.list(query)
        elif not name or self.command == "POST":
            raise Refusal(400, "InvalidArgument")
        elif self.command == "PUT":
            if self.headers.get("x-goog-if-generation-match") != "0":
                raise Refusal(400, "InvalidArgument")
            if len(name.encode()) > LONGEST_NAME:
                raise Refusal(400, "KeyTooLong")
            self.answer(200, b"", self.described(bucket.create(name, body)))
        elif self.command == "DELETE":
            bucket.delete(name)
            self.answer(204, b"")
        else:
            self.read(bucket.find(name))

    def read(self, found):
        body, described, size = found[0], self.described(found), len(found[0])
        asked = self.headers.get("Range")
        if not asked:
            return self.answer(200, body, described)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if begin >= size:
            raise Refusal(416, "InvalidRange")
        self.answer(206, body[begin:end], {**described, "Content-Range": f"bytes {begin}-{end - 1}/{size}"})

    def list(self, query):
        after = query.get("start-after", "")
        if "continuation-token" in query:
            after = base64.urlsafe_b64decode(query["continuation-token"]).decode()
        page, more = self.server.bucket.page(query.get("prefix", ""), after)
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(body)}</Size><ETag>{tag(body)}</ETag>"
            f"<LastModified>{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at * 1000) % 1000:03}Z</LastModified></Contents>"
            for name, (body, _, at) in page
        )
        token = base64.urlsafe_b64encode(page[-1][0].encode()).decode() if more else ""
        following = f"<NextContinuationToken>{token}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{following}{entries}</ListBucketResult>"
        self.answer(200, text.encode(), {"Content-Type": "application/xml"})

    @staticmethod
    def described(found):
        body, generation, at = found
        return {
            "ETag": tag(body), "x-goog-generation": str(generation), "Last-Modified": email.utils.formatdate(at, usegmt=True),
            "Content-Type": "application/octet-stream",
        }

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)


def tag(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    bucket, token = sys.argv[1:]
    server = Server(("127.0.0.1", 0), Handler)
    server.bucket, server.bucket_name, server.token = Bucket(), bucket, token
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
