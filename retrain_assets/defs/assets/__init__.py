"""The assets, a file for each noun of the flow; every body reads, calls one operation and returns metadata."""
