"""Tests. `fakes` and `builders` are shared by all of them."""
