"""The one engine and its one job: from the request to the delivered result, without ever waiting.

It imports `cameras`, `splats` and `engine.bridge`. `ui` and `publish` may import it.
"""
