"""The paper's claims held against our numbers. Never imports torch or a plotting library."""
