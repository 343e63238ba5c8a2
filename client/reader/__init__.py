"""The reader: from a person's comment to the looks that it likes and dislikes.

A comment comes in, with the verdict and the picture where there are any; mentions go out, each with the person's own words, a sign and
a strength. The device and the taste room call it; it looks at pictures through the eye, and knows nothing of taste, painter or rounds."""
