"""A package that is none of ours, as somebody else would ship it; this folder goes on its users' path."""
