"""Studies: one paper or question a file, run as jobs and answered with verdicts."""
