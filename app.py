"""The page: `make web`, or `streamlit run app.py` after `pip install -r requirements-web.txt`.

Options come behind two dashes: `streamlit run app.py -- --output_dir=FOLDER --checkpoints_dir=FOLDER --mode=1`.
"""

from gm.web.page import show

show()
