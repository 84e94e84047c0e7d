"""The C relay, and the sockets that it hands over, for Trio."""
