"""The containers' DNS: names that rules serve get synthetic addresses, all others are resolved upstream."""
