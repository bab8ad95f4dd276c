"""`zsseg cache show`: `store_page` writes the page that shows what a store has of its images."""
