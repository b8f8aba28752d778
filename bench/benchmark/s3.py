"""What the benchmark asks an S3 server itself: a listing, signed as AWS's version 4 wants it."""

import hashlib
import hmac
import http.client
import time
from urllib.parse import quote
from xml.etree import ElementTree

from .machine import Failed

NOTHING = hashlib.sha256(b"").hexdigest()


def listing(address, region, key_id, secret, bucket, prefix):
    """Size by key of all objects whose keys begin so."""
    found, token = {}, None
    while True:
        query = {"list-type": "2", "prefix": prefix} | ({"continuation-token": token} if token else {})
        page = ElementTree.fromstring(get(address, region, key_id, secret, f"/{bucket}", query))
        name = page.tag.removesuffix("ListBucketResult")
        for entry in page.iter(f"{name}Contents"):
            found[entry.findtext(f"{name}Key")] = int(entry.findtext(f"{name}Size"))
        token = page.findtext(f"{name}NextContinuationToken")
        if not token:
            return found


def get(address, region, key_id, secret, path, query):
    encoded = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
    headers = signed_headers(address, region, key_id, secret, path, encoded)
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", f"{path}?{encoded}", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise Failed(f"the S3 server answers {answer.status} to a listing of {path}: {body[:300]}")
    return body


def signed_headers(address, region, key_id, secret, path, query):
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers = {"host": address, "x-amz-content-sha256": NOTHING, "x-amz-date": now}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    asked = "\n".join(["GET", path, query, lines, names, NOTHING])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(asked.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names},"
                                f" Signature={signature}")
    return headers
