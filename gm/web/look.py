"""What the theme in .streamlit/config.toml cannot say: a little CSS, and pictures from the clipboard."""

from __future__ import annotations

import streamlit as st
import streamlit.components.v1 as components

_CSS = """
<style>
  .block-container { padding-top: 2.2rem; padding-bottom: 3rem; max-width: 1360px; }
  h1 { font-size: 1.7rem !important; padding: 0 0 .4rem !important; }
  [data-testid="stImage"] img { border-radius: .4rem; }
  [data-testid="stVideo"] { border-radius: .4rem; background: #0003; }
  /* streamlit's greys and its white on the dark theme's light colour have less than 4.5 times the background's light */
  [data-testid="stCaptionContainer"] *, [data-testid="stImageCaption"] * {
    color: light-dark(#6b6660, #a8a49e) !important;
  }
  [data-testid="stBaseButton-primary"]:enabled * { color: light-dark(#fff, #17171a) !important; }
  @media (max-width: 640px) { .block-container { padding-left: 1rem; padding-right: 1rem; } }
</style>
"""

# A pasted picture goes the way of a dropped one. The frame of this script is of the page's own origin.
_PASTE = """
<script>
  const page = window.parent.document;
  if (!page.pastes) {
    page.pastes = true;
    page.addEventListener("paste", event => {
      const file = [...(event.clipboardData?.files ?? [])].find(one => one.type.startsWith("image/"));
      const input = page.querySelector('[data-testid="stFileUploader"] input[type="file"]');
      if (!file || !input) return;
      const files = new DataTransfer();
      files.items.add(file);
      input.files = files.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    });
  }
</script>
"""


def apply() -> None:
    st.markdown(_CSS, unsafe_allow_html=True)


def paste() -> None:
    """Let a picture be pasted anywhere on the page."""
    show = getattr(st, "iframe", None) or components.html  # the second goes, the first came after 1.50
    show(_PASTE, height=1)
