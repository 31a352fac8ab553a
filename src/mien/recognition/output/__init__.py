"""What comes out: annotated pictures, tables, the shapes of other tools."""
