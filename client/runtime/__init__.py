"""What reader, eye and painter compute with: threads, models on this machine, and progress reports.

Work, the name of a model, or a function that shows progress comes in; results and folders go out. Every room
of the device may call it; it knows none of them.
"""

from palate.client.runtime.hub_cache import find_model, refuse_reference
from palate.client.runtime.progress import Notice, Progress, no_notice, no_progress
from palate.client.runtime.threads import one_thread, side_by_side

__all__ = [
    "Notice",
    "Progress",
    "find_model",
    "no_notice",
    "no_progress",
    "one_thread",
    "refuse_reference",
    "side_by_side",
]
