"""The networks that experiments train, and what becomes of them: named, made, put behind a first step, saved."""
