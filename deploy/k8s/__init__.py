"""The Kubernetes manifests of PostFacta, and what they are held to."""
