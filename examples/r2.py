"""An object store over HTTP: `./dev run examples/r2.py -- curl -s -T README.md http://my.r2/readme`.

The handler puts the container's id before each path, so that no container can reach another's objects.
`--binding BUCKET=s3://bucket?endpoint=…` selects any store that speaks S3.
"""

from typing import Any

from pyinterceptor import App, BadArgument, Container, Context, Headers, R2Bucket, Request, Response
from pyinterceptor.bindings.r2 import ObjectBody, R2Object


class Sandbox(Container):
    enable_internet = False


@Sandbox.outbound_by_host("my.r2")
async def objects(request: Request, env: Any, ctx: Context) -> Response:
    path = f"{ctx.container_id}{request.url.path}"  # an object of this container alone
    try:
        match request.method:
            case "GET" | "HEAD":
                ranged = request.method == "GET" and "if-range" not in request.headers  # else send the whole object
                asked = request.headers if ranged else None
                return answer(await env.BUCKET.get(path, range=asked, only_if=request.headers), request.headers)
            case "PUT":
                fields = request.headers
                stored = await env.BUCKET.put(path, request.body, http_metadata=fields, only_if=fields)
                if stored is None:
                    return Response("Precondition Failed\n", status=412)
                return Response(status=201, headers={"etag": stored.http_etag})
            case "DELETE":
                await env.BUCKET.delete(path)
                return Response(status=204)
    except BadArgument as error:
        return Response(f"{error}\n", status=error.status)
    return Response("Method Not Allowed", status=405)


def answer(found: R2Object | None, asked: Headers) -> Response:
    if found is None:
        return Response("Not Found\n", status=404)
    headers = Headers({"etag": found.http_etag, "accept-ranges": "bytes"})
    found.write_http_metadata(headers)
    if not isinstance(found, ObjectBody):  # the condition of only_if is false
        must_be_unchanged = "if-match" in asked or "if-unmodified-since" in asked
        return Response(status=412 if must_be_unchanged else 304, headers=headers)
    if found.range is None or found.range.length == found.size:
        return Response(found.body, headers=headers)
    first, length = found.range.within(found.size)
    headers.set("content-range", f"bytes {first}-{first + length - 1}/{found.size}")
    return Response(found.body, status=206, headers=headers)


app = App(containers=[Sandbox], bindings={"BUCKET": R2Bucket()})
