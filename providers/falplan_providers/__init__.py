"""The providers that ship with falplan, one package each."""
