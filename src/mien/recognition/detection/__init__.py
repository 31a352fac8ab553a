"""Where the faces are, and how they are cut out."""
