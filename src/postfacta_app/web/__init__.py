"""What every slice needs to speak HTTP: one reader of requests and one renderer of pages."""
