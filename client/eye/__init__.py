"""The eye: from a picture to what it shows.

A picture file comes in; a small checked copy, colours, statistics and the tower's features go out. Reader, taste and painter call it, and it
calls nobody."""
