"""R2: an object store with the Workers API of Cloudflare R2.

https://developers.cloudflare.com/r2/api/workers/workers-api-reference/
"""

from pyinterceptor.bindings.r2.bucket import Bucket
from pyinterceptor.bindings.r2.conditions import Condition
from pyinterceptor.bindings.r2.declaration import R2Bucket
from pyinterceptor.bindings.r2.metadata import HttpMetadata
from pyinterceptor.bindings.r2.objects import ObjectBody, Objects, R2Object, UploadedPart
from pyinterceptor.bindings.r2.ranges import Range
from pyinterceptor.bindings.r2.upload import MultipartUpload

__all__ = [
    "Bucket",
    "Condition",
    "HttpMetadata",
    "MultipartUpload",
    "ObjectBody",
    "Objects",
    "R2Bucket",
    "R2Object",
    "Range",
    "UploadedPart",
]
