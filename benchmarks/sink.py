"""Requests bytes from source.py and prints Gbit/s: `python sink.py HOST PORT COUNT`. The kernel discards the bytes."""

import socket
import sys
import time

host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.create_connection((host, port), timeout=30) as connection:
    connection.sendall(count.to_bytes(8, "big"))
    buffer, left = bytearray(4 * 1024 * 1024), count
    connection.recv(1, socket.MSG_PEEK)
    started = time.perf_counter()
    while left > 0:
        got = connection.recv_into(buffer, len(buffer), socket.MSG_TRUNC)  # tcp(7): discards instead of copying
        if got == 0:
            sys.exit(f"the stream ended {left} bytes early")
        left -= got
print(count * 8 / (time.perf_counter() - started) / 1e9)
