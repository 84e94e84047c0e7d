"""KV: a value for a key, as Cloudflare Workers KV has it.  https://developers.cloudflare.com/kv/api/"""

from pyinterceptor.bindings.kv.declaration import KV
from pyinterceptor.bindings.kv.namespace import Namespace

__all__ = ["KV", "Namespace"]
