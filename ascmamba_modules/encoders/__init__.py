"""Other audio encoders, and late fusion with place and time."""
