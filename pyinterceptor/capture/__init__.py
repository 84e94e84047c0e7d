"""Captures: they redirect containers' connections to our sockets. All code that needs root is in `gateway/`."""
