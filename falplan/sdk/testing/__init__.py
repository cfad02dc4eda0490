"""Public fakes and the conformance suite that every provider and shell passes."""
