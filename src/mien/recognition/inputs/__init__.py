"""What may be handed over: pictures of any kind, paths, films and cameras."""
