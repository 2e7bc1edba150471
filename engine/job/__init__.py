"""One job from its folder to its results: inputs, the run, measures, the report.

It imports `method`, `models`, `priors`, `geometry` and everything below them. `commands`, `service`
and `evaluation` may import it.
"""
