"""Programs that make the figures and numbers of docs/gallery.md and the screenshot in README.md.

They read finished files only; they may import both packages, and now import neither.
"""
