"""`zsseg predict`: `contact_sheet` writes the page that shows all predictions of a folder."""
