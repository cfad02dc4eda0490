"""The acting half of plan and apply: observe, walk, execute, journal."""
