"""A running interceptor: containers, their flows, requests and records."""
