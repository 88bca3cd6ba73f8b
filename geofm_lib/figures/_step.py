"""03: the parts of a step, what is measured of it, and how both are called and coloured. No torch."""

from geofm_lib.figures._axes import BLUE, FAINT, GREEN, GREY, ORANGE, PINK, RED, SKY, WORDS, YELLOW

SPEED = {
    "images_per_s": "images/s, steady window",
    "paper_30_steps_images_per_s": "images/s, the paper's 30-step window",
    "step_s": "seconds a step, median of the slowest rank",
    "mean_step_s": "seconds a step, mean over ranks",
    "start_up_s": "seconds of start-up",
    "model_tflops_per_rank": "model TFLOP/s per rank",
    "matmul_tflops": "TFLOP/s of a matrix product, all ranks at once, slowest",
    "mfu_of_measured_peak": "MFU, of that measured peak",
    "mfu_of_datasheet_peak": "MFU, of the data sheet's peak",
    "busy_percent": "percent busy, the idlest rank",
    "power_w": "watts",
    "global_batch": "images in a step, all ranks",
    "warmup_steps": "warm-up steps, not counted",
    "measured_steps": "steps measured",
}
PHASES = {"data": "images", "forward": "forward", "backward": "backward", "optimiser": "optimiser"}
PROFILED = PHASES | {"communication": "exposed communication", "other": "the rest"}
COLOURS = {
    "images": SKY, "forward": BLUE, "backward": GREEN, "optimiser": PINK, "exposed communication": RED,
    "the rest": GREY, "work": WORDS, "waiting": RED, "all-gather": ORANGE, "reduce-scatter": YELLOW,
    "all-reduce": SKY, "broadcast": FAINT, "collective": ORANGE,
}  # fmt: skip
LANES = {"phase": "phase", "work": "work", "collective": "collective", "wait": "waiting"}
VARIANTS = {"real": "real images", "synthetic": "synthetic images", "no_communication": "synthetic, no communication"}
TRACKED = {"parameters": "weights", "gradients": "gradients", "optimiser": "optimiser", "unsharded": "buffers",
           "activations": "activations", "inputs": "images"}  # fmt: skip
