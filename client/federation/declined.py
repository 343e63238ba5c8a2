"""A task that this device does not do.

Where it stands in the flow: what checks a task raises `Declined`, and `app` sends its reason to the server.
The reason is one of a fixed list (`shared.reasons`), the only words about a refusal that ever leave. Texts of
exceptions stay on the device: they may quote a comment, so none is sent, printed or logged.
"""

from palate.shared.reasons import DeclineReason


class Declined(Exception):  # noqa: N818 - an answer, not an error of this program
    """A task is not done; `reason` is what the server is told."""

    def __init__(self, reason: DeclineReason) -> None:
        """Take a reason of the fixed list; there is no room for another text."""
        super().__init__(reason.value)
        self.reason = reason
