"""Pure logic, in the order of the flow: values in, values out.

Reading order: `features`, `outcomes`, `dataset`, `splits`, `model`, `report`, `deployment`,
`routing`, `canary`, `promotion`. Nothing here reads a clock, a disk, a database or the environment.
"""
