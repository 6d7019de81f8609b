"""Everything of a measurement that must not cost CPU in the measuring process: simulators, load, the floor."""
