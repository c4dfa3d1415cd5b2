"""What acts on a service: a client, its process, the link to its database, a collector, a clock of the machine."""
