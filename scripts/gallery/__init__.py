"""Programs that make the figures and numbers of docs/gallery.md and the screenshot in README.md.

They read finished files and import neither package.
"""
