"""The page for people: static ES modules, no build step."""
