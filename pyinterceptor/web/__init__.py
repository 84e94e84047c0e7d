"""The objects that handlers use: requests, responses, and their parts. Pure: no I/O."""

from pyinterceptor.web.body import Body
from pyinterceptor.web.headers import Headers
from pyinterceptor.web.request import Request
from pyinterceptor.web.response import Response
from pyinterceptor.web.url import URL

__all__ = ["URL", "Body", "Headers", "Request", "Response"]
