"""The painter: from a prompt and a taste to pictures.

A prompt, a profile and an evaluator come in; pictures, ranked and marked with how they were made, go out. The device, the commands and
the demo call it."""
