"""Where saved state is kept: a snapshot, a journal of the running apply, and a lock."""
