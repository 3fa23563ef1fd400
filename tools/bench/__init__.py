"""The parts of `tools/bench_step`: one file a section, and what they share."""
