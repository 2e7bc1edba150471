"""The one engine and its one job: from the request to the delivered result, without ever waiting.

It imports `cameras`, `splats`, `publish` and `engine.bridge`. `ui`, `publish` and the operators of
`cameras` may import it.
"""
