"""The settings of a run: their fields, their checks, their form in `config.json`."""
