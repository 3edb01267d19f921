"""What every command shares: how it starts, how signals and a poor machine end it, what it says of flags."""
