"""What a service promises: the file of objectives, read into one model, and its arithmetic."""
