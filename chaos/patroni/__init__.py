"""A PostgreSQL of three nodes that Patroni and etcd keep, its failovers, and what is written during them."""
