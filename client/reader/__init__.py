"""The reader: from a person's comment to the looks that it likes and dislikes.

A comment comes in, with the verdict and the picture where there are any. Mentions go out: each has the
person's own words, a sign and a strength. Device and taste call it; it looks at pictures through the eye, and
knows nothing of taste, painter or rounds. `extractor` and `sentences`, which load models, are imported by
their own names.
"""

from palate.client.reader.comment import READER, Comment, Lesson, new_comment, read_lessons, read_verdict

__all__ = ["READER", "Comment", "Lesson", "new_comment", "read_lessons", "read_verdict"]
