"""Everything that comes from files: settings, scale set files, templates, recipes, uploads."""
