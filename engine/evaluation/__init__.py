"""The method's experiments on pictures whose other views are known.

`scenes` loads what is compared with, `experiments` says what is run, `runner` runs it,
`against_truth` and `stability` measure, `tables` writes what came out.

It imports `job` and everything below it. Only `commands` may import it.
"""
