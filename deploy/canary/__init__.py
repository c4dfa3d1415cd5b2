"""The analysis of a canary, as Argo Rollouts makes it, so that a drill can execute what is shipped."""
