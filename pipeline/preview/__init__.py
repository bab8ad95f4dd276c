"""`zsseg preview`: `preview_page` writes the pictures and the HTML page."""
