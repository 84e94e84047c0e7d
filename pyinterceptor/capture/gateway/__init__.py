"""The gateway: the network namespace where every container's veth ends. All code here needs root."""
