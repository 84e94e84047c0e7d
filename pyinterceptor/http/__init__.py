"""HTTP/1.1 both ways: the server that containers talk to, and fetch()."""
