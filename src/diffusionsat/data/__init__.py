"""Images and what is known about them, from the forms in which people hold them."""
