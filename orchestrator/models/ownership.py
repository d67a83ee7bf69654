"""The tag in a domain's metadata: whose machine it is, and what a lost record of it is made of again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.models.members import Member, Role


class TagState(StrEnum):
    """How far a machine has come, as far as it has to be known without its record."""

    NEW = "new"  # made; its setup has not ended
    SET_UP = "set_up"  # may be parked; an instance has still to enter service
    SERVING = "serving"  # an instance whose services have answered
    STOPPED = "stopped"  # an instance that the operator switched off


@dataclass(frozen=True)
class OwnerTag:
    """`image` is name:version, `digest` its sha256; `created_at` is the member's, in seconds since the epoch.

    Written with the domain, and again before a record says more than it does: it is never ahead of what is true,
    and behind its record only while work is under way. `forked`: this body went on from a golden image; it never
    booted.
    """

    installation: str
    set_name: str
    member: str
    incarnation: int
    model: str
    image: str
    digest: str
    role: Role
    state: TagState
    address: str
    created_at: float
    forked: bool = False


def tag_for(member: Member, installation: str, image: str, state: TagState) -> OwnerTag:
    return OwnerTag(
        installation=installation,
        set_name=member.set_name,
        member=member.name,
        incarnation=member.incarnation,
        model=member.model,
        image=image,
        digest=member.image_digest,
        role=member.role,
        state=state,
        address=member.address,
        created_at=member.created_at,
    )
