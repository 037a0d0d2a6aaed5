"""Plug-ins: what is registered, their parameters as users write them, and which code of the user's may run."""
