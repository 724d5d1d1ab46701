"""What Dagster loads: the definitions of the configured problem."""

from retrain_assets.defs.build import build_defs
from retrain_assets.settings import load_settings

defs = build_defs(load_settings())
