"""What was asked, in which order it is done, and what is written down."""
