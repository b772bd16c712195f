"""Requests to an S3 server by another client than dstl's: signed by hand, of the standard library alone."""

import datetime
import hashlib
import hmac
import urllib.parse
import urllib.request

REGION = "us-east-1"


def request(server, method, path, query=None, body=b""):
    """Makes a request with the keys of `server`, and gives the text of the answer; `HTTPError` where it is refused."""
    access_key, secret_key = server.keys
    host = urllib.parse.urlsplit(server.endpoint).netloc
    time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    path, query = urllib.parse.quote(path), encoded(query or {})
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": time}
    names = ";".join(headers)
    canonical = "\n".join([method, path, query, *(f"{name}:{value}" for name, value in headers.items()), "", names, digest])
    scope = f"{time[:8]}/{REGION}/s3/aws4_request"
    signed = "\n".join(["AWS4-HMAC-SHA256", time, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, signed.encode(), "sha256").hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    asked = urllib.request.Request(f"{server.endpoint}{path}?{query}", data=body or None, method=method, headers=headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return answer.read().decode()


def encoded(query):
    return "&".join(f"{urllib.parse.quote(key, safe='')}={urllib.parse.quote(value, safe='')}" for key, value in sorted(query.items()))


def listed(server, bucket, prefix):
    """The first page of a listing, as XML."""
    return request(server, "GET", f"/{bucket}", {"list-type": "2", "prefix": prefix})
