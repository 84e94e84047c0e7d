"""The C relay and the sockets it hands over, as Trio sees them."""
