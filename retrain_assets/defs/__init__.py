"""The loop on Dagster as thin wrappers; the only folder that imports dagster.

Reading order: `partitions`, `resources`, `assets/` (in the order of the flow), `checks`, `jobs`, `schedules`,
`sensors`, `build` (puts them together), `instance` and `run` (the Dagster instance and runs in this process).
"""
