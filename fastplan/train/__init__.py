"""Training inside one state: knows states and loaders, not graphs."""
