"""Values in, text out. Decides nothing."""
