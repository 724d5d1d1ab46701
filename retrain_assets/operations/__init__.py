"""What spans evidence, registry and route in one transaction, called alike by sensor, command line and launchpad.

Reading order: `platform` (what an operation needs), `deploy` (register, stage, start, promote, roll back),
`runs`, `dataset`, `model`, `report` and their face `retrain` (the weekly loop), `watch` (the tick), `registry` (the
public client).
"""
