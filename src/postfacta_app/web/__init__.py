"""Shared HTTP code: parsing requests and rendering pages."""
