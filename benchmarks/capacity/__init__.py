"""From measured stage times to replicas: a simulation of the service's batcher, its check, and a sizing table."""
