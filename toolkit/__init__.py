"""edgeproof: how a classifier holds up to adversarial inputs in the form in which it is deployed."""

__version__ = "0.1.0"
