"""Pictures of a run: arrays in, drawings out; nothing here knows of workdirs or configs."""
