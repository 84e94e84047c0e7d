"""The methods that change the rules of one container at run time, the same on its instance and on its stub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pyinterceptor.app.changes import Changes

Edit = Callable[[Changes, Collection[str]], Changes]  # of the rules set so far; the names are of outbound_handlers


class RulesAtRunTime:
    """Changes to the rules of one container, before its first start or later.

    When a call returns, every request that begins later obeys it, on open connections too, and it is on the disk: a
    later start and a later process of the interceptor find it. TLS and opaque flows that the new rules refuse are
    reset. `name` is one of the class's `outbound_handlers`, which finds `params` in `ctx.params`: JSON values, bytes,
    datetimes, tuples and sets. A wrong call raises PolicyError and changes nothing.
    """

    async def _change(self, edit: Edit) -> None:
        """Puts the edited rules in force. Raises PolicyError, or BindingError if they can't be written."""
        raise NotImplementedError

    async def set_outbound_handler(self, name: str, params: Any = None) -> None:
        """Gives a named handler every request that no host rule answers, before the class's `outbound`."""
        await self._change(lambda changes, known: changes.with_handler(name, params, known))

    async def remove_outbound_handler(self) -> None:
        """Removes the handler of `set_outbound_handler`; the class's `outbound` answers again."""
        await self._change(lambda changes, known: changes.without_handler())

    async def set_outbound_by_host(self, host: str, name: str, params: Any = None) -> None:
        """Gives a named handler the requests to one host, before the class's `outbound_by_host`."""
        await self._change(lambda changes, known: changes.with_host(host, name, params, known))

    async def remove_outbound_by_host(self, host: str) -> None:
        """Removes the handler that a call has set for this host; the class's rule for it answers again."""
        await self._change(lambda changes, known: changes.without_host(host))

    async def set_outbound_by_hosts(self, hosts: Mapping[str, str | tuple[str, Any]]) -> None:
        """Replaces the handlers that calls have set for hosts: `{host: name}` or `{host: (name, params)}`."""
        await self._change(lambda changes, known: changes.with_hosts(hosts, known))

    async def reset_outbound(self) -> None:
        """Removes all rules that calls have set; those of the class are in force again."""
        await self._change(lambda changes, known: Changes())
