"""How containers' connections come to us. What needs root is in `gateway/`."""
