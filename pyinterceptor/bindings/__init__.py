"""Bindings: resources that handlers use through `env` and that containers can't reach."""

from pyinterceptor.bindings.kv import KV
from pyinterceptor.bindings.quota import Quota
from pyinterceptor.bindings.r2 import R2Bucket
from pyinterceptor.bindings.secret import Secret

__all__ = ["KV", "Quota", "R2Bucket", "Secret"]
