"""What published vectors hold, for people: segments, look-alikes, and what can be read of a profile.

No stage, and no stage knows it: it looks at what they made with the means of `monitor` and `evaluate`.
"""
