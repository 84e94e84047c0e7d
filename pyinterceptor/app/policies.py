"""The policies of one container, by generation.

Pure. A decision names the generation of the policy that made it. Its numbers index that policy's rules, stages and
handlers; a newer policy may be in force by now.
"""

from __future__ import annotations

from pyinterceptor.app.policy import Policy

KEPT = 16  # policies: an older decision's rule can't be named any more


class Policies:
    """The policy in force, and the last ones before it."""

    def __init__(self, policy: Policy) -> None:
        self.now = policy
        self._kept = {policy.generation: policy}  # oldest first

    def replace(self, policy: Policy) -> bool:
        """Puts the policy in force. Returns False, and changes nothing, if the one in force was read later."""
        if policy.generation <= self.now.generation:
            return False
        self.now = policy
        self._kept[policy.generation] = policy
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return True

    def of(self, generation: int) -> Policy | None:
        """Returns the policy of this generation; None if it is no longer kept."""
        return self._kept.get(generation)
