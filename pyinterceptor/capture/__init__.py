"""The kernel's part: the gateway namespace, its program, rules and interfaces. All that needs root is here."""
