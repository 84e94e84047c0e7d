"""The kernel's part: the gateway namespace, its program, rules, interfaces.

All that needs root is here.
"""
