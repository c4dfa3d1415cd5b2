"""What was learned from an incident: post-mortems in revisions, and the factors that recur in them."""
