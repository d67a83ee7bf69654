"""What the product needs on a host, checked up front; every fault with its fix (row B14)."""

from orchestrator.doctor.checks import Subject, examine
from orchestrator.doctor.finding import Finding

__all__ = ["Finding", "Subject", "examine"]
