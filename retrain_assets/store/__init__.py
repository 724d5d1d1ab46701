"""Effects on SQL and files.

Reading order: `database` (connections), `tables`, `schema` (migrations), `published` (active settings),
`outcomes` and `decisions` (what workers write), `collector` (the worker's side), `datasets` (snapshots and
manifests), `models` (artefact files), `registry` (versions, route, events), `outbox`, `trials` (canary state).
Functions take a connection, so that a caller decides what belongs to one transaction.
"""
