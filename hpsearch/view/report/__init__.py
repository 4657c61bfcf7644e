"""The report: sections, figures, HTML and Markdown."""
