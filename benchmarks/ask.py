"""A DNS client: `ask.py SERVER`. Reads lines "WINDOW COUNT FIRST NAMES", asks COUNT questions with WINDOW of them in
flight, for NAMES names that begin with the number FIRST, and prints the number of answers."""

import socket
import sys


def question(number: int, name: int) -> bytes:
    return (number & 0xFFFF).to_bytes(2, "big") + b"\1\0\0\1" + bytes(6) + b"\x0bn%010d\4test\0\0\1\0\1" % name


def ask(client: socket.socket, window: int, count: int, first: int, names: int) -> int:
    sent = got = 0
    try:
        while got < count:
            while sent - got < window and sent < count:
                client.send(question(sent, first + sent % names))
                sent += 1
            answer = client.recv(4096)
            assert (answer[3] & 0xF, answer[6:8]) == (0, b"\0\1"), answer
            got += 1
    except TimeoutError:
        pass
    return got


with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.connect((sys.argv[1], 53))
    client.settimeout(5)
    for line in sys.stdin:
        print(ask(client, *map(int, line.split())), flush=True)
