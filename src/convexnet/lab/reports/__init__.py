"""Pages and pictures from records, and what they are made of."""
