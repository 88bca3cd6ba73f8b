"""Figures and tables of runs, of the plan and of the paper. Never imports torch."""
