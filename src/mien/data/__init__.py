"""From any source of face crops to one object in memory."""
