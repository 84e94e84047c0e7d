"""DNS as the containers see it: names that rules serve get addresses of their own, the rest is asked upstream."""
