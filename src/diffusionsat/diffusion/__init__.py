"""From noise to latents: schedules, denoisers, guidance and solvers. They know nothing of satellites.

A *denoiser* is a function ``(x, sigma) -> x0``: latents x = x0 + sigma * noise, (B, C, h, w), and their noise
level, a float, to an estimate of the clean latents. Everything here makes denoisers of denoisers or
integrates one.
"""
