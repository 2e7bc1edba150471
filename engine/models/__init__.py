"""Which models there are, which one a job takes, how its weights arrive and fit into memory.

It imports `bridge` alone. `priors`, `geometry`, `job`, `service` and `commands` may import it.
"""
