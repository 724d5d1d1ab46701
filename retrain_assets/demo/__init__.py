"""The demonstration: a year of real flights, and a simulated automation whose truth is known.

Reading order: `flights` (real data turned into tasks that can be replayed), `automation` (simulated tasks and
outcomes with calibrated rates), `replay` (the loop itself on top of both).
"""
