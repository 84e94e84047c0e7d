"""HTTP/1.1 in both directions: the server for containers, and the client behind fetch()."""
