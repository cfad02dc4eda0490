"""Things that remember: the spec's files, saved state, and the control plane's database."""
