"""Telling people what happened: texts (`messages`), where they go (`channels`), and the delivery (`deliver`)."""
