"""Virtual people: what they like, what they say, and the labels that they give."""
