"""What the product needs on a host, checked up front; every fault with its fix (row B14)."""

from orchestrator.doctor.checks import Finding, Subject, examine

__all__ = ["Finding", "Subject", "examine"]
