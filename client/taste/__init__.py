"""Taste: what one person likes, as a profile that can be read and as models that can be asked.

Mentions, verdicts and picture features come in. A profile, an evaluator, an adapter and scores go out.
Device, painter and federation call it; it knows neither of the last two. `evaluator`, `adapter`, `fitting`
and `scoring`, which compute with numpy, are imported by their own names.
"""

from palate.client.taste.profile import Preference, Profile

__all__ = ["Preference", "Profile"]
