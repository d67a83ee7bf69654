"""Every error that reaches an operator.

UnderstudyError             something the operator asked for could not be done
├── SpecError               a file or a value is wrong; nothing was touched (exit 2)
├── NotFound                a named thing does not exist (exit 2)
├── Conflict                the wish collides with what is there (exit 2)
├── HostError               a host or its libvirt refused or failed
│   ├── HostUnreachable     the host does not answer: what is on it is unknown, not absent
│   ├── HostFull            no room (disk, memory) for what was asked
│   ├── DiskLost            the ephemeral disk of a machine is gone: it can only be made anew
│   ├── BaseLost            the base disk of a machine is gone: it can be brought again
│   └── GoldenUnusable      there is no golden image to fork from, or none can be taken: machines boot
│       └── GoldenTooEarly  none can be taken yet: it is tried again in a moment
├── ImageRefused            the file is not an image we accept
├── DownloadFailed          a server did not give the file that was asked for
│   └── DownloadCut         the connection failed or the server was busy; asking again may go on
├── ImageBuildFailed        a recipe did not produce an image
├── BalancerError           HAProxy is missing, died or refused its configuration
├── GuestError              the guest could not be reached or a step in it failed
│   ├── ConnectionLost      the guest went away under a command; it may come back
│   ├── AgentAbsent         no guest agent answers
│   ├── HookFailed          on_claim or on_drain failed, or was not done in time
│   ├── ForkFailed          a fork could not be told who it is, or does not serve
│   ├── SetupFailed         the unattended setup reported an error
│   └── NeverReady          the services did not answer in time
├── StoreError              the store cannot be read or written
│   └── StoreLost           its file was taken away or replaced while it was open
├── Interrupted             work was cancelled because it is no longer wanted (never shown)
│   ├── LeaseLost           another process is the controller now: what this one decided is void
│   └── StartedAgain        the machine was switched off on purpose, to be started with its drives
└── TimedOut                the world did not match the wish in time (exit 3)

`fix` is the second line: what the operator can type or change.
"""

from __future__ import annotations


class UnderstudyError(Exception):
    """A failure with a message in the operator's words and, where there is one, its fix."""

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  ({self.fix})" if self.fix else self.message


class SpecError(UnderstudyError):
    exit_code = 2


class NotFound(UnderstudyError):
    exit_code = 2


class Conflict(UnderstudyError):
    exit_code = 2


class HostError(UnderstudyError):
    pass


class HostUnreachable(HostError):
    pass


class HostFull(HostError):
    pass


class DiskLost(HostError):
    pass


class BaseLost(HostError):
    pass


class GoldenUnusable(HostError):
    pass


class GoldenTooEarly(GoldenUnusable):
    pass


class ImageRefused(UnderstudyError):
    exit_code = 2


class DownloadFailed(UnderstudyError):
    pass


class DownloadCut(DownloadFailed):
    pass


class ImageBuildFailed(UnderstudyError):
    pass


class BalancerError(UnderstudyError):
    pass


class GuestError(UnderstudyError):
    pass


class ConnectionLost(GuestError):
    pass


class AgentAbsent(GuestError):
    pass


class HookFailed(GuestError):
    pass


class ForkFailed(GuestError):
    pass


class SetupFailed(GuestError):
    pass


class NeverReady(GuestError):
    pass


class StoreError(UnderstudyError):
    pass


class StoreLost(StoreError):
    pass


class Interrupted(UnderstudyError):
    pass


class LeaseLost(Interrupted):
    pass


class StartedAgain(Interrupted):
    pass


class TimedOut(UnderstudyError):
    exit_code = 3
