"""The page, a thin skin over `gm.job`; `app.py` starts it.

page → inputs (with pictures), progress, results, sweep, gallery: what is seen, with streamlit. They ask `queue`, one
for the server, which hands requests in turn to `worker`, a process that alone holds the model; `messages` is what goes
between the two.
"""
