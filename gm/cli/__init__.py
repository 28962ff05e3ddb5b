"""What image_to_video.py does between its options and a `gm.job.Job`: on the terminal, for many pictures.

arguments    what was typed, checked together, to a job
run          the job over all pictures, with lines and bars; what fails is told and counted
"""
