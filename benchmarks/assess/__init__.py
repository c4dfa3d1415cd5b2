"""Reference services that are graded by `postfacta assess`, and the page of their grades.

`make assess`.
"""
