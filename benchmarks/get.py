"""Gets a URL over HTTP/1.1 and prints Gbit/s of its body: `python get.py URL`. The kernel discards the bytes."""

import re
import socket
import sys
import time
from urllib.parse import urlsplit

url = urlsplit(sys.argv[1])
assert url.hostname is not None
with socket.create_connection((url.hostname, url.port or 80), timeout=30) as connection:
    connection.sendall(f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    length = re.search(rb"content-length: (\d+)", head.lower())
    assert head.startswith(b"HTTP/1.1 200"), head
    assert length is not None, head
    left = count = int(length[1])
    started = time.perf_counter()
    while left > 0:
        got = connection.recv(min(left, 4 * 1024 * 1024), socket.MSG_TRUNC)
        left -= len(got)
        if not got:
            sys.exit(f"the body ended {left} bytes early")
print(count * 8 / (time.perf_counter() - started) / 1e9)
