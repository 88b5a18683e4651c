"""Results as HTML: one file that opens offline."""
