"""What a person sees: the terminal and the report page."""
