"""Which networks exist: architectures as values, spaces, operators and the networks built from them."""
