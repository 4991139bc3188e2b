"""The command line: `perceivers train | evaluate | predict | data | presets | plan | init`."""
