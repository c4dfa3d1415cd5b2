"""PostFacta for software that a service may have: pools of psycopg and SQLAlchemy, code for pybreaker.

Import from the module that has the software's name; it says which extra is missing, and no other module needs it.
"""
