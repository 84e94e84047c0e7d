"""Opens an interceptor: the only place that joins the gateway, the relay, DNS and the runtimes.

`async with open_interceptor(app) as interceptor` is a lifetime: everything it started has ended when the block ends.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial

import trio

from pyinterceptor.app.app import App
from pyinterceptor.arguments import (
    Allowed,
    Values,
    check_each,
    instances,
    is_count,
    is_text,
    is_text_map,
    is_texts,
    optional,
)
from pyinterceptor.bindings.env import configured, open_env, settings_of
from pyinterceptor.bindings.state import state_directory
from pyinterceptor.capture.gateway.filter import DNS_RATE
from pyinterceptor.capture.gateway.gateway import open_gateway
from pyinterceptor.capture.routes import follow_ipv6, has_ipv6
from pyinterceptor.dns.names import SYNTHETIC, Networks
from pyinterceptor.dns.nat64 import add_prefixes, learn_prefixes
from pyinterceptor.dns.servers import Servers
from pyinterceptor.dns.upstream import CACHE_SIZE, Ways, open_upstream
from pyinterceptor.errors import PolicyError, ungrouped
from pyinterceptor.http.reply import MAX_HEAD
from pyinterceptor.http.server import open_server
from pyinterceptor.paths import is_name
from pyinterceptor.relay.hub import Hub
from pyinterceptor.relay.relay import Options, open_relay
from pyinterceptor.runtime import open_runtime
from pyinterceptor.serving.flows import Flows
from pyinterceptor.serving.interceptor import Interceptor
from pyinterceptor.serving.kept import open_kept
from pyinterceptor.serving.log import open_log
from pyinterceptor.serving.ruled import RuledNames

NAMED: Values = (lambda value: is_text(value) and is_name(value), "a name of letters, digits, dots and dashes")
ALLOWED: Allowed = {
    "instance": NAMED,
    "nameservers": optional((is_texts, 'a list of addresses, as ["192.0.2.1"]')),
    "synthetic": instances(Networks, "Networks(v4, v6)"),
    "settings": optional((is_text_map, 'texts by name, as {"KV": "redis://…"}')),
    "state": optional(NAMED),
    "options": optional(instances(Options, "Options(…)")),
    "dns_cache": (is_count, "a count of bytes"),
    "nat64": (is_texts, 'a list of networks, as ["64:ff9b::/96"]'),
    "ruled": optional(instances(RuledNames, "RuledNames(…)")),
    "dns_rate": (partial(is_count, least=1), "a count of at least 1"),
    "fetch_head": (partial(is_count, least=1), "a count of bytes of at least 1"),
}


@asynccontextmanager
async def open_interceptor(
    app: App,
    *,
    instance: str = "default",
    nameservers: Sequence[str] | None = None,
    synthetic: Networks = SYNTHETIC,
    settings: Mapping[str, str] | None = None,
    state: str | None = None,
    options: Options | None = None,
    dns_cache: int = CACHE_SIZE,
    nat64: Sequence[str] = (),
    ruled: RuledNames | None = None,
    dns_rate: int = DNS_RATE,
    fetch_head: int = MAX_HEAD,
    fresh: bool = False,
) -> AsyncIterator[Interceptor]:
    """Opens the gateway, the relay and DNS for `app`; all three are closed when the block ends.

    `instance`: a name that separates several interceptors on one machine.
    `nameservers`: asked for names that no rule serves, instead of those of /etc/resolv.conf.
    `synthetic`: the networks from which names that a rule serves get their addresses.
    `settings`: engines or texts of bindings, as {"KV": "redis://…"}; they override PYINTERCEPTOR_BINDING_KV.
    `state`: the directory below /var/lib/pyinterceptor of the bindings' own files (default: the instance's name).
    `options`: deadlines and limits of the relay.
    `dns_cache`: bytes for DNS answers, which are kept by their TTL and shared by all containers.
    `nat64`: NAT64 prefixes of the host's network, beside those that its DNS names (RFC 7050): an IPv6 address below
    one counts as the IPv4 address that it embeds.
    `ruled`: how often the names of rules are resolved, and how long their addresses stay.
    `dns_rate`: DNS queries per second of one container over UDP, above which the kernel drops and counts them, after a
    burst of a fifth of them.
    `fetch_head`: bytes of a response's head, and again of its trailers, above which `fetch()` fails.
    `fresh`: ignores the rules that calls have set on containers in earlier processes.

    Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF).

    Raises CaptureError with the step and the remedy; PolicyError for a wrong app, rule or setting; BindingError if a
    binding's engine can't be opened.
    """
    if not isinstance(app, App):
        raise PolicyError(f"open_interceptor takes an App, not {app!r}; write open_interceptor(App(containers=[…]))")
    check_each(
        "open_interceptor",
        ALLOWED,
        instance=instance,
        nameservers=nameservers,
        synthetic=synthetic,
        settings=settings,
        state=state,
        options=options,
        dns_cache=dns_cache,
        nat64=nat64,
        ruled=ruled,
        dns_rate=dns_rate,
        fetch_head=fetch_head,
    )
    policies = {cls: app.policy(cls, 0) for cls in app.containers}  # a bad rule is reported before anything is opened
    bindings = configured(app.bindings, settings_of(os.environ) | dict(settings or {}))
    place = state_directory(state or instance)
    servers = Servers(nameservers)
    add_prefixes(nat64)
    v6 = has_ipv6()
    kept = await open_kept(place, fresh=fresh)
    try:
        with closing(Hub()) as hub:
            async with (
                open_env(bindings, place) as env,
                open_log() as log,
                open_gateway(instance, v6=v6, dns_rate=dns_rate) as gateway,
                open_relay(options or Options()) as relay,
                open_server() as server,
                open_upstream(servers, ways=Ways(*relay.naming), cache_size=dns_cache) as upstream,
                trio.open_nursery() as nursery,
            ):
                interceptor = Interceptor(
                    app,
                    nursery,
                    capture=gateway,
                    relay=relay,
                    hub=hub,
                    upstream=upstream,
                    open_runtime=open_runtime,
                    v6=v6,
                    synthetic=synthetic,
                    env=env,
                    policies=policies,
                    log=log,
                    ruled=ruled or RuledNames(),
                    kept=kept,
                    fetch_head=fetch_head,
                )
                flows = Flows(relay, hub, server, interceptor.resolver, interceptor.env, interceptor.runs)
                nursery.start_soon(hub.run)
                nursery.start_soon(flows.run)
                nursery.start_soon(gateway.follow)
                nursery.start_soon(interceptor.recording.run)
                nursery.start_soon(interceptor.ruled.keep)
                nursery.start_soon(follow_ipv6, interceptor.set_ipv6)
                nursery.start_soon(learn_prefixes, upstream)
                upstream.listen(gateway.dns)
                yield interceptor
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = ungrouped(group)
        raise error from error.__cause__
