"""What the shipped packages are, under which licences, and what is known against them."""
