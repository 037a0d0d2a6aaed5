"""The figures of a report: one file each, drawn as inline SVG."""
