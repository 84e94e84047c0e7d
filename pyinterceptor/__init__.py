"""Outbound traffic of containers, in the hands of Python."""
