"""The page that shows a scene in a browser: one file that needs no network, or served while a job
grows.

`contents` makes what a page holds of a scene, `labels` says where each Gaussian was first seen,
`page` writes the file, `server` serves it to this machine alone. The page itself is `viewer.html`,
`.css`, `viewer.js` and `paths.js`; `spark.js` is Spark and three.js in one file, built by
scripts/build_viewer.py (versions and checksum in `spark.json`, licences in `spark_licences.txt`).
"""
