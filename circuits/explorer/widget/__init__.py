"""The explorer's front end: one JavaScript module, the same in a notebook and in a saved page."""
