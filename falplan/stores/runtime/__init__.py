"""What the control plane remembers: requests, keys, apps, revisions, runners, rollouts."""
