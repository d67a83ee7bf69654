"""Use cases: check a wish against what is known, then write it. No driver is called here."""
