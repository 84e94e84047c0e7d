"""What lives while an interceptor runs: containers, their flows, their requests."""
