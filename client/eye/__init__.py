"""The eye: from a picture to what it shows.

A picture file comes in. A small checked copy, statistics, the tower's features and the probability of each
attribute go out. Reader, taste, painter and device call it; it knows none of them.
"""

from palate.client.eye.colours import WhatIsShown, colours_shown
from palate.client.eye.folders import OnUnreadable, find_pictures, read_each
from palate.client.eye.pictures import PictureSource, copy_picture, hash_picture, read_picture
from palate.client.eye.tower import (
    FEATURE_NAMES,
    SUBJECTS,
    Features,
    Look,
    load_tower,
    picture_features,
    subject_of_prompt,
    what_is_shown,
)

__all__ = [
    "FEATURE_NAMES",
    "SUBJECTS",
    "Features",
    "Look",
    "OnUnreadable",
    "PictureSource",
    "WhatIsShown",
    "colours_shown",
    "copy_picture",
    "find_pictures",
    "hash_picture",
    "load_tower",
    "picture_features",
    "read_each",
    "read_picture",
    "subject_of_prompt",
    "what_is_shown",
]
