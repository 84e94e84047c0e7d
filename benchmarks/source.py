"""A TCP server that sends as fast as the kernel can: `python source.py PORT`.

A request is the number of bytes to send, as 8 bytes in big-endian order.
"""

import os
import socket
import socketserver
import sys

BLOCK = 64 * 1024 * 1024  # bytes of the file that is sent repeatedly


class Source(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        connection: socket.socket = self.request
        left = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
        while left > 0:
            sent = os.sendfile(connection.fileno(), FILE, 0, min(left, BLOCK))
            left -= sent


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


FILE = os.memfd_create("source")
os.truncate(FILE, BLOCK)
Server(("0.0.0.0", int(sys.argv[1])), Source).serve_forever()
