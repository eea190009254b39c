"""How bytes come in and go out: the front door and what stands behind it."""
