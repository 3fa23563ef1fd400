"""The job before the job: does a run fit on a machine, what will it communicate, how long will it take."""
