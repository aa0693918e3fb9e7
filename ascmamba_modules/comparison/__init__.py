"""The other systems of the ASCMamba paper, to compare with.

Source: ASCMamba paper, section 5, table 4.
"""
