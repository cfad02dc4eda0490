"""What a provider's author imports: protocols, values, errors, failpoints and the conformance suite."""
