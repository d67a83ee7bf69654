"""What is told about a provisioning step while it runs: its beginning, its output, its end.

A guest may say anything, at any rate: its words are made printable, and bounded in size, rate and sum.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.errors import GuestError
from orchestrator.models.members import Member
from orchestrator.models.redaction import NOTHING, Redaction
from orchestrator.models.setup_result import plain
from orchestrator.models.spec import Step
from orchestrator.ports.clock import Clock

Tell = Callable[[Member, str, str], None]
"""(member, kind of event, words). Never raises."""

PIECE = 2048  # characters of one event, at most
PIECES = 4  # events for each time that output is told
INTERVAL = 1.0  # seconds between two times
LIMIT = 64 * 1024  # characters told of one step
_TITLE = 60


def tell_nobody(_member: Member, _kind: str, _words: str) -> None:
    """Where nobody listens."""


class StepReport:
    """One step of one member; `title` is such as "step 2 of 3"."""

    def __init__(
        self, member: Member, title: str, clock: Clock, tell: Tell, redaction: Redaction = NOTHING
    ) -> None:
        self._member = member
        self._title = title
        self._clock = clock
        self._tell = tell
        self._output = StepOutput(lambda words: tell(member, "step_output", words), redaction)

    @contextmanager
    def of(self, step: Step) -> Iterator[None]:
        """Around the step. A GuestError in it names the step and its seconds."""
        self._tell(self._member, "step_started", f"{self._title} of {self._member.name}: {_words(step)}")
        began = self._clock.monotonic()
        try:
            yield
        except GuestError as error:
            seconds = self._clock.monotonic() - began
            message = f"{self._title} failed after {seconds:.1f} s: {error.message}"
            raise type(error)(message, error.fix) from error
        finally:
            self._output.end()
        seconds = self._clock.monotonic() - began
        self._tell(self._member, "step_done", f"{self._title} of {self._member.name}: done after {seconds:.1f} s")

    def listen(self, chunk: bytes) -> None:
        self._output.take(chunk, self._clock.monotonic())


class StepOutput:
    """Output as it comes -> words to tell, whole lines where there are any.

    Of what comes faster than it is told, the newest is kept; `LIMIT` characters after the first, nothing more is.
    """

    def __init__(self, tell: Callable[[str], None], redaction: Redaction = NOTHING) -> None:
        self._tell = tell
        self._redaction = redaction
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = ""
        self._left_out = 0
        self._told = 0
        self._next = float("-inf")

    def take(self, chunk: bytes, now: float) -> None:
        """`now` in seconds that never go back."""
        self._keep(self._decoder.decode(chunk))
        if self._waiting and now >= self._next:
            # What may be the beginning of a secret waits for its end.
            told = self._waiting.rfind("\n") + 1 or len(self._waiting) - self._redaction.overlap
            if told > 0:
                words, self._waiting = self._waiting[:told], self._waiting[told:]
                self._say(words)
                self._next = now + INTERVAL

    def end(self) -> None:
        """Tell what is left."""
        self._keep(self._decoder.decode(b"", final=True))
        self._say(self._waiting)
        self._waiting = ""

    def _keep(self, text: str) -> None:
        # A lone carriage return begins a line anew: a progress bar becomes lines.
        text = plain(text.replace("\t", " ").replace("\r\n", "\n").replace("\r", "\n"))
        room = PIECE * PIECES
        both = self._redaction.clean(self._waiting + text)
        self._left_out += max(len(both) - room, 0)
        self._waiting = both[-room:]

    def _say(self, text: str) -> None:
        text = text.strip("\n")
        if not text or self._told >= LIMIT:
            return
        if self._left_out:
            self._tell(f"({self._left_out} characters of output are left out here)")
            self._left_out = 0
        for piece in _pieces(text[: LIMIT - self._told]):
            self._tell(piece)
        self._told += len(text)
        if self._told >= LIMIT:
            self._tell(f"(more than {LIMIT // 1024} KiB of output: the rest is left out)")


def _pieces(text: str) -> Iterator[str]:
    """At most PIECE characters each, cut between lines where there is a line end."""
    while text:
        cut = len(text) if len(text) <= PIECE else text.rfind("\n", 1, PIECE + 1)
        cut = cut if cut > 0 else PIECE
        piece = text[:cut].strip("\n")
        text = text[cut:].lstrip("\n")
        if piece:
            yield piece


def _words(step: Step) -> str:
    if step.upload is not None:
        return plain(f"upload {step.upload.source!r} to {step.upload.to}")
    command = plain(step.run or "").strip()
    first = command.partition("\n")[0]
    short = first if len(first) <= _TITLE and first == command else f"{first[:_TITLE].rstrip()}…"
    return f"run {short!r}"
