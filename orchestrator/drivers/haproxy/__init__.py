"""The Balancer port on a HAProxy process of our own."""

from orchestrator.drivers.haproxy.process import HaproxyBalancer

__all__ = ["HaproxyBalancer"]
