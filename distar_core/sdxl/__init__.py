"""Everything that knows diffusers, transformers and peft: SDXL's conditioning, its latents, its pipeline folders."""

T_STAR = 399  # the time at which DMD2 and the DI* release use SDXL's network as a one-step generator
