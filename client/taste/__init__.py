"""Taste: what one person likes, as a profile that can be read and as models that can be asked.

Mentions, verdicts and picture features come in; a profile, an evaluator, an adapter and scores go out. The device, the painter and the
federation call it; it knows neither of the last two."""
