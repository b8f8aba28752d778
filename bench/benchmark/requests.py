"""Requests to an S3 server: counted from haproxy's log, and what they cost at a list price."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

PRICE_LIST = "AWS S3 Standard, us-east-1"
# Dollars for one request.
PRICES = {
    "PUT": 0.005 / 1000, "POST": 0.005 / 1000, "LIST": 0.005 / 1000,
    "GET": 0.0004 / 1000, "HEAD": 0.0004 / 1000,
    "DELETE": 0.0,
}
KINDS = list(PRICES)


class RequestLog:
    """The lines haproxy writes, one when a request has ended."""

    MARK = "S3"
    # When it began, frontend, method, status, bytes to the server and from it with their heads, milliseconds, and what
    # was asked for.
    FORMAT = f"{MARK} %Ts.%ms %f %HM %ST %U %B %Ta %HU"

    def __init__(self, path):
        self.path = path

    def position(self):
        return self.path.stat().st_size

    @contextmanager
    def counting(self, bucket, result):
        """Adds to a result what is asked for, in this bucket, inside the block."""
        position = self.position()
        yield
        result |= summary(self.since(position), bucket)

    def since(self, position):
        """The requests whose lines were written since then."""
        with open(self.path, encoding="utf-8", errors="replace") as file:
            file.seek(position)
            return [Request.parse(line) for line in file if line.startswith(f"{self.MARK} ")]


@dataclass(frozen=True)
class Request:
    """A request that has been answered."""
    bucket: str
    key: str
    kind: str
    status: int
    sent: int
    received: int
    milliseconds: int

    @classmethod
    def parse(cls, line):
        _, _, _, method, status, sent, received, took, uri = line.split(None, 8)
        bucket, _, key = uri.strip().partition("?")[0].strip("/").partition("/")
        # A GET of the bucket itself lists what is in it.
        kind = "LIST" if method == "GET" and not key else method
        return cls(bucket, key, kind, int(status), int(sent), int(received), int(took))

    @property
    def failed(self):
        """Not by being told what is there and what is not."""
        return self.status < 0 or self.status >= 500 or self.status in (400, 403, 408, 429)


def summary(requests, bucket):
    """What a measurement keeps of a tool's requests."""
    own = [request for request in requests if request.bucket == bucket]
    kinds = Counter(request.kind for request in own)
    return {
        "requests": {kind: kinds[kind] for kind in sorted(kinds)},
        "requests_all": len(own),
        "requests_failed": sum(request.failed for request in own),
        "sent_bytes": sum(request.sent for request in own),
        "received_bytes": sum(request.received for request in own),
    }


def cost(kinds):
    """Dollars for so many of each kind; a kind that the price list does not know is as dear as the dearest."""
    dearest = max(PRICES.values())
    return sum(count * PRICES.get(kind, dearest) for kind, count in kinds.items())
