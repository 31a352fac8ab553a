"""Reading faces with a finished model."""
