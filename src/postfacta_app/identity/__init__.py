"""Who is asking: accounts, sign-in, tokens, and the guard before every route."""
