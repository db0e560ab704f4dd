"""Applications that show what channels are for.  Each is served with `channels examples.NAME:app`."""
