"""The one error that a person can mend, and the word for "asked to stop". Shared with Blender:
standard library only.
"""

from __future__ import annotations


class UserError(Exception):
    """What happened, and what to do about it.

    `message` is one sentence about what is wrong, `hint` one about the remedy.
    Anything that is not a `UserError` is a bug.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Cancelled(Exception):
    """Raised by a `report` callback when somebody asked the job to stop. No error: unwind and keep
    what is finished.
    """
