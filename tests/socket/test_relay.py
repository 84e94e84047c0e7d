"""The relay as a thing that is opened and closed."""

from __future__ import annotations

import os
import resource
import socket

from pyinterceptor._relay import ffi, lib


def test_a_relay_that_finds_too_few_descriptors_says_so_and_closes_none_of_its_callers() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    options = ffi.new("struct relay_options *")
    options.threads = 2
    outcomes = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for free in range(16):
            before = sorted(os.listdir("/proc/self/fd"), key=int)
            held = [os.dup(0) for _ in range(64)]  # no hole is left below these
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + free, hard))
            try:
                relay = lib.relay_open(listener.fileno(), options)
                outcomes.append(relay != ffi.NULL)
                if relay != ffi.NULL:
                    lib.relay_close(relay)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in held:
                os.close(fd)
            assert sorted(os.listdir("/proc/self/fd"), key=int) == before
    assert outcomes == sorted(outcomes)  # with enough of them it opens
    assert not outcomes[0]
    assert outcomes[-1]
