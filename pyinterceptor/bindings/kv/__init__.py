"""KV: a key-value store with the API of Cloudflare Workers KV.  https://developers.cloudflare.com/kv/api/"""

from pyinterceptor.bindings.kv.declaration import KV
from pyinterceptor.bindings.kv.namespace import Namespace

__all__ = ["KV", "Namespace"]
