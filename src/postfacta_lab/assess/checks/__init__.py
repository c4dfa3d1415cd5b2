"""The checks, a module for each section of the catalogue; importing one adds its checks."""
