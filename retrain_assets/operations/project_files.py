"""The two files that let Dagster load a problem from a folder of its own.

Holds their text; does not hold who writes them (`operations/init.py`). A test holds them against those of this
repository.
"""

from __future__ import annotations

WORKSPACE_FILE = "workspace.yaml"
DAGSTER_FILE = "dagster.yaml"

WORKSPACE = """\
# One code location per problem; start `dagster dev -w workspace.yaml` in this folder.
load_from:
  - python_module:
      module_name: retrain_assets.definitions
      location_name: {name}
"""

DAGSTER = """\
# The Dagster instance of this folder. The class below puts its history into <home>/dagster: RETRAIN_HOME, else
# `.retrain/` beside the folder that holds the config. A `storage:` block here (e.g. postgres) takes its place for
# runs and events.
instance_class:
  module: retrain_assets.defs.instance
  class: HomeInstance
  config: {}

telemetry:
  enabled: false

nux:
  enabled: false                # no first-visit dialog

run_queue:
  dequeue_interval_seconds: 1

concurrency:
  runs:
    max_concurrent_runs: 2      # SQLite run storage locks under more
  pools:
    default_limit: 1            # one deployment at a time
    granularity: run

retention:                      # the watch ticks every 5 s: about 17,000 ticks a day
  sensor:
    purge_after_days:
      skipped: 1
      success: 30
      failure: 30
  schedule:
    purge_after_days:
      skipped: 30
      success: 365
      failure: 365
"""
