"""Published pipelines: from prompts and pictures to clips, as diffusers' pipelines compute them.

    found = open_pipeline(Path("runs/wan"))
    made = generate(found, Request(prompts=("a cat",)))
    for clip in made.clips:
        clip.video                                                             # float32 [B, T, H, W, 3] in [0, 1]

`pipeline.py` has the contract and the driver, `request.py` what is asked for, `opened.py` what is there; a family is
one file more and a line for each of its classes in `families.py`.
"""
