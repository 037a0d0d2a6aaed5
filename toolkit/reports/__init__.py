"""Reports of an eval run, made from its files alone: `write.write_reports` writes them all."""
