"""Connections whose bytes nobody reads: `python stall.py TASK HOST PORT COUNT SIZE`.

serve: accepts connections at all addresses of PORT. It sends to each as fast as it can, or nothing if SIZE is 0.
download: opens COUNT connections one by one and reads SIZE bytes of each. upload: opens COUNT connections and sends as
many bytes as fit. Then both print "ready" and read nothing until their input ends.
"""

import contextlib
import selectors
import socket
import sys

BLOCK = bytes(65536)
QUIET = 1.0  # seconds without progress, after which nothing more fits


def serve(port: int, size: int) -> None:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    held = []
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                made = listener.accept()[0]
                made.setblocking(False)
                held.append(made)
                if size:
                    selector.register(made, selectors.EVENT_WRITE)
                continue
            try:
                key.fileobj.send(BLOCK)
            except BlockingIOError:
                pass
            except OSError:
                selector.unregister(key.fileobj)


def download(host: str, port: int, count: int, size: int) -> list[socket.socket]:
    held = []
    for _ in range(count):
        made = socket.create_connection((host, port))
        made.sendall(b"\0")
        left = size
        while left > 0:
            left -= len(made.recv(min(left, 1 << 20)))
        held.append(made)
    return held


def upload(host: str, port: int, count: int, size: int) -> list[socket.socket]:
    selector = selectors.DefaultSelector()
    for _ in range(count):
        made = socket.create_connection((host, port))
        made.sendall(b"\0")
        made.setblocking(False)
        selector.register(made, selectors.EVENT_WRITE)
    while ready := selector.select(QUIET):
        for key, _ in ready:
            with contextlib.suppress(BlockingIOError):
                key.fileobj.send(BLOCK)
    return [key.fileobj for key in selector.get_map().values()]


def main() -> None:
    task, host, port, *numbers = sys.argv[1:]
    if task == "serve":
        serve(int(port), int(numbers[1]))
    count, size = map(int, numbers)
    held = {"download": download, "upload": upload}[task](host, int(port), count, size)
    print("ready", flush=True)
    sys.stdin.read()
    del held


main()
