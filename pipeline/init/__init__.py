"""`zsseg init`: `description_text` writes the YAML, with comments, `check_page` the HTML page."""
