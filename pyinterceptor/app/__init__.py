"""The declarations of a user: apps, container classes and their rules."""
