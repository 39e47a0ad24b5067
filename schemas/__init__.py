"""What is said and stored: messages, states, job descriptions, requirements, wire formats.

Pure values and pure functions over them; imports nothing else of Penstock.
Everybody calls it.
"""
