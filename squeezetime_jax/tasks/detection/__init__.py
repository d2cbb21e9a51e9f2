"""AVA 2.1: who does what at a second of a video, from files to frame mAP."""
