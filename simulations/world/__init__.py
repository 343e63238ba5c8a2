"""The drawn world: subjects, places, finishes, and pictures whose truth is known."""
