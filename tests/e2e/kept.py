"""Asks for two responses on one connection with Python's clients. Arguments: client, cases, and base URLs.

Prints a line for each base URL and case (separated by commas): the outcomes of both requests, "BODY STATUS" or the name
of the error.
"""

import http.client
import sys
from urllib.parse import quote, urlsplit

TIME = 20  # seconds


class HttpClient:
    def __init__(self, base):
        self._connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=TIME)

    def get(self, path):
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except Exception:
            self._connection.close()
            raise


class Urllib3:
    def __init__(self, base):
        import urllib3  # which not every image has

        self._base = base
        self._pool = urllib3.PoolManager(timeout=TIME)

    def get(self, path):
        answer = self._pool.request("GET", self._base + path)
        return answer.status, answer.data


def outcome(client, path):
    try:
        status, body = client.get(path)
    except Exception as error:
        return type(error).__name__
    return f"{body.decode()} {status}"


make = {"http.client": HttpClient, "urllib3": Urllib3}[sys.argv[1]]
for base in sys.argv[3:]:
    for case in sys.argv[2].split(","):
        client = make(base)
        print(case, outcome(client, "/" + quote(case)), outcome(client, "/after"), sep=" | ")
