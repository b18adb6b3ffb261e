"""Programs that make boards, generated pages, tables and figures; run them from the top of the checkout.

They may import both packages; neither package imports them.
"""
