"""The gateway: the network namespace where every container's veth ends. All of it needs root."""
